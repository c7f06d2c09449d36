"""The pipeline's graph for all runners, from images to a pushed encoder."""

import ml_metadata as mlmd
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_model_analysis.proto import config_pb2
from tfx import v1 as tfx

from pipelines.artifacts import ApprovedStatistics
from pipelines.components.corpus_embedder.component import CorpusEmbedder
from pipelines.components.data_gate.component import DataGate
from pipelines.components.evaluator.component import Evaluator
from pipelines.components.image_example_gen.component import ImageExampleGen
from pipelines.components.linear_probe.component import LinearProbe
from pipelines.components.model_pusher.component import ModelPusher
from pipelines.components.representation_check.component import RepresentationCheck
from pipelines.components.serving_check.component import ServingCheck
from pipelines.digests import code_digest
from pipelines.resolvers import LastPushed, LatestIfAny
from pipelines.settings import LAST, Settings, is_path

# All features except images and their keys: statistics of image bytes would shuffle every image.
METADATA_FEATURES = [
    "image/format",
    "image/pixels",
    "image/height",
    "image/width",
    "image/label_text",
]
_SERVING_REQUESTS = 16  # Images that ServingCheck or InfraValidator makes requests of.


def create_pipeline(settings: Settings) -> tfx.dsl.Pipeline:
    """Returns the pipeline for any TFX runner."""
    code = code_digest()
    example_gen = _example_gen(settings, code)
    examples = example_gen.outputs["examples"]

    # Validation of the data against a schema and against the last run.
    statistics_gen = tfx.components.StatisticsGen(
        examples=examples,
        stats_options=tfdv.StatsOptions(
            feature_allowlist=METADATA_FEATURES,
            num_quantiles_histogram_buckets=100,  # DataGate measures the drift of sizes by these.
        ),
    )
    statistics = statistics_gen.outputs["statistics"]
    schema_gen: tfx.types.BaseComponent
    if settings.schema_file:
        schema_gen = tfx.components.ImportSchemaGen(schema_file=settings.schema_file)
    else:
        schema_gen = tfx.components.SchemaGen(statistics=statistics, infer_feature_shape=True)
    validator = tfx.components.ExampleValidator(
        statistics=statistics, schema=schema_gen.outputs["schema"]
    )
    resolvers = []
    if settings.compare_with_last_run:
        last_approved = tfx.dsl.Resolver(
            strategy_class=LatestIfAny, approved=tfx.dsl.Channel(type=ApprovedStatistics)
        ).with_id("LastApprovedStatistics")
        resolvers.append(last_approved)
    gate = DataGate(
        statistics=statistics,
        schema=schema_gen.outputs["schema"],
        anomalies=validator.outputs["anomalies"],
        baseline=resolvers[0].outputs["approved"] if resolvers else None,
        stop_on=settings.stop_on,
        max_drift=settings.max_drift,
        # Labels that nobody asked for do not decide, and a growing folder of photos always drifts.
        drift_severity="error" if settings.accuracy_decides else "warning",
    )

    # Training.
    records_schema = tfx.components.ImportSchemaGen(
        schema_file=settings.records_schema_file
    ).with_id("RecordsSchema")
    transform = tfx.components.Transform(
        examples=examples,
        schema=records_schema.outputs["schema"],
        preprocessing_fn="pipelines.modules.preprocessing.preprocessing_fn",
        custom_config={
            "shorter_side": settings.shorter_side,
            "channels": settings.channels,
            "bit_depth": settings.bit_depth,
            "code": code,
        },
        splits_config=tfx.proto.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
        disable_statistics=True,  # They would read the images' bytes.
    )
    transform.add_upstream_node(gate)
    transformed = transform.outputs["transformed_examples"]
    start = _start(settings)
    base_model = start.outputs["model" if settings.weights == LAST else "result"] if start else None
    trainer = tfx.components.Trainer(
        run_fn="pipelines.modules.training.run_fn",
        examples=transformed,
        transform_graph=transform.outputs["transform_graph"],
        base_model=base_model,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={
            "config": dict(settings.config),
            "strategy": settings.strategy,
            "training_dir": settings.training_dir,
            "model_name": settings.model_name,
            "code": code,
        },
    )
    encoder = trainer.outputs["model"]

    # Whether the model is good enough, and whether it can be served.
    judges: list[tfx.types.BaseNode] = []
    if settings.labelled:
        probe = LinearProbe(
            examples=transformed,
            encoder=encoder,
            start=base_model,
            views=settings.views,
            decides=settings.accuracy_decides,
            code=code,
        )
        judges.append(probe)
        baseline = None
        if settings.accuracy_decides:
            judges.append(_last_blessed_model("LinearProbe", "Evaluator"))
            baseline = judges[-1].outputs["model"]
        evaluator = Evaluator(
            examples=examples,
            model=probe.outputs["model"],
            baseline_model=baseline,
            eval_config=eval_config(settings),
            example_splits=["eval"],
            schema=records_schema.outputs["schema"],
        )
        judges.append(evaluator)
    if not settings.accuracy_decides:
        last_blessed = _last_blessed_model("Trainer", "RepresentationCheck")
        check = RepresentationCheck(
            examples=transformed,
            model=encoder,
            baseline_model=last_blessed.outputs["model"],
            min_spread=settings.min_spread,
            max_measure_loss=settings.max_measure_loss,
            code=code,
        )
        judges += [last_blessed, check]
    blessing = judges[-1].outputs["blessing"]
    serving_check: tfx.types.BaseComponent
    if settings.infra_validator == "none":
        serving_check = ServingCheck(
            model=encoder, examples=examples, num_examples=_SERVING_REQUESTS, code=code
        )
    else:
        serving_check = _infra_validator(settings, encoder, examples)
    pusher = ModelPusher(
        model=encoder,
        model_blessing=blessing,
        infra_blessing=serving_check.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=settings.model_dir)
        ),
    )
    components = [
        example_gen,
        statistics_gen,
        schema_gen,
        validator,
        *resolvers,
        gate,
        records_schema,
        transform,
        *([start] if start else []),
        trainer,
        *judges,
        serving_check,
        pusher,
    ]
    if settings.embed_data_dir:
        components.append(
            CorpusEmbedder(
                model=encoder,
                model_blessing=blessing,
                data_dir=settings.embed_data_dir,
                versions={"code": code, "listing": settings.embed_listing_digest},
            )
        )
    return tfx.dsl.Pipeline(
        pipeline_name=settings.name,
        pipeline_root=settings.pipeline_root,
        components=components,
        enable_cache=settings.enable_cache,
        metadata_connection_config=_metadata(settings),
        beam_pipeline_args=list(settings.beam_args),
    )


def eval_config(settings: Settings) -> config_pb2.EvalConfig:
    """Returns TFMA's config: accuracy overall and by class with intervals, and two thresholds.

    The thresholds, lowest accuracy and largest loss to the last blessed model, apply to the overall
    slice only, so that a class of three images does not decide. There are none if accuracy is only
    reported: Evaluator then blesses nothing, and a later run that gates on accuracy does not take
    the model for one that passed.
    """
    threshold = config_pb2.MetricThreshold(
        value_threshold=config_pb2.GenericValueThreshold(
            lower_bound={"value": settings.min_accuracy}
        ),
        change_threshold=config_pb2.GenericChangeThreshold(
            direction=config_pb2.MetricDirection.HIGHER_IS_BETTER,
            absolute={"value": -settings.max_accuracy_loss},
        ),
    )
    thresholds = [
        config_pb2.PerSliceMetricThreshold(
            slicing_specs=[config_pb2.SlicingSpec()], threshold=threshold
        )
    ]
    accuracy = config_pb2.MetricConfig(
        class_name="SparseCategoricalAccuracy",
        config='{"name": "accuracy"}',
        per_slice_thresholds=thresholds if settings.accuracy_decides else [],
    )
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                # Loads the SavedModel by its signature; otherwise TFMA first tries Keras.
                model_type="tf_generic",
                signature_name="examples",
                label_key="image/label",
            )
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            config_pb2.SlicingSpec(feature_keys=["image/label_text"]),
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[accuracy, config_pb2.MetricConfig(class_name="ExampleCount")]
            )
        ],
        options=config_pb2.Options(compute_confidence_intervals={"value": True}),
    )


def _example_gen(settings: Settings, code: str) -> ImageExampleGen:
    input_config, output_config, range_config = None, None, None
    if settings.input_splits:
        input_config = tfx.proto.Input(
            splits=[
                tfx.proto.Input.Split(name=name, pattern=pattern)
                for name, pattern in settings.input_splits.items()
            ]
        )
    if settings.output_splits:
        output_config = tfx.proto.Output(
            split_config=tfx.proto.SplitConfig(
                splits=[
                    tfx.proto.SplitConfig.Split(name=name, hash_buckets=buckets)
                    for name, buckets in settings.output_splits.items()
                ]
            )
        )
    if settings.span is not None:
        range_config = tfx.proto.RangeConfig(
            static_range=tfx.proto.StaticRange(
                start_span_number=settings.span, end_span_number=settings.span
            )
        )
    return ImageExampleGen(
        input_base=settings.data_dir,
        input_config=input_config,
        output_config=output_config,
        range_config=range_config,
        labels="folders" if settings.labels == "auto" else settings.labels,
        max_corrupt_fraction=settings.max_corrupt_fraction,
        channels=settings.channels,
        bit_depth=settings.bit_depth,
        versions={"code": code, "listing": settings.listing_digest},
    )


def _metadata(settings: Settings) -> mlmd.proto.ConnectionConfig:
    """Returns the config of SQLite in the root.

    TFX's own function would create the folder, which may be in a cloud.
    """
    connection = mlmd.proto.ConnectionConfig()
    connection.sqlite.filename_uri = settings.metadata_path
    connection.sqlite.connection_mode = mlmd.proto.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return connection


def _start(settings: Settings) -> tfx.types.BaseNode | None:
    """Returns the node that finds the weights to start from; None for random ones and imagenet."""
    if settings.weights == LAST:
        return tfx.dsl.Resolver(
            strategy_class=LastPushed,
            model=tfx.dsl.Channel(
                type=tfx.types.standard_artifacts.Model, producer_component_id="Trainer"
            ),
            pushed_model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.PushedModel),
        ).with_id("LastPushedModel")
    if settings.weights and is_path(settings.weights):
        return tfx.dsl.Importer(
            source_uri=settings.weights,
            artifact_type=tfx.types.standard_artifacts.Model,
            custom_properties={"digest": settings.weights_digest},
        ).with_id("StartingWeights")
    return None


def _last_blessed_model(model_producer: str, blessing_producer: str) -> tfx.dsl.Resolver:
    return tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(
            type=tfx.types.standard_artifacts.Model, producer_component_id=model_producer
        ),
        model_blessing=tfx.dsl.Channel(
            type=tfx.types.standard_artifacts.ModelBlessing, producer_component_id=blessing_producer
        ),
    ).with_id("LastBlessedModel")


def _infra_validator(
    settings: Settings, encoder: tfx.types.BaseChannel, examples: tfx.types.BaseChannel
) -> tfx.components.InfraValidator:
    serving_spec = tfx.proto.ServingSpec(
        # TF Serving's images have the versions of TensorFlow.
        tensorflow_serving=tfx.proto.TensorFlowServing(tags=[tf.__version__]),
        model_name=settings.model_name,
    )
    if settings.infra_validator == "docker":
        serving_spec.local_docker.SetInParent()
    else:
        serving_spec.kubernetes.SetInParent()
    request_spec = tfx.proto.RequestSpec(
        tensorflow_serving=tfx.proto.TensorFlowServingRequestSpec(signature_names=["examples"]),
        split_name="eval",
        num_examples=_SERVING_REQUESTS,
    )
    return tfx.components.InfraValidator(
        model=encoder, examples=examples, serving_spec=serving_spec, request_spec=request_spec
    )
