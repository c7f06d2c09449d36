import pytest

from byol_tf.report import formats


@pytest.mark.parametrize(
    "written, expected",
    [
        (formats.percent(0.523), "52.3 %"),
        (formats.percent(-0.012), "−1.2 %"),
        (formats.percent(None), "–"),
        (formats.percent(float("nan")), "–"),
        (formats.number(50000), "50,000"),
        (formats.number(0.82061), "0.8206"),
        (formats.number(-2.5), "−2.5"),
        (formats.magnitude(11_173_962), "11.2 M"),
        (formats.magnitude(701_234), "701 k"),
        (formats.magnitude(999), "999"),
        (formats.duration(0.42), "0.4 s"),
        (formats.duration(59.7), "1 min 0 s"),
        (formats.duration(192), "3 min 12 s"),
        (formats.duration(4238), "1 h 10 min"),
        (formats.duration(90000), "1 d 1 h"),
        (formats.date("yesterday"), "yesterday"),
    ],
)
def test_numbers_as_people_read_them(written, expected):
    assert written.replace("\N{NARROW NO-BREAK SPACE}", " ") == expected
