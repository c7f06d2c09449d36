"""How many connections a server may have open, so that files can still be opened beside them."""

import resource

# Descriptors for everything else: the files of models that load, the log, TensorFlow, the ports.
_RESERVED = 128
_MOST = 4096


def connection_limit() -> int:
    """Returns the maximum number of connections of each of the two servers, gRPC and REST.

    That is half of the descriptors that the process may open (RLIMIT_NOFILE) and that are not
    reserved for files, at least 16 and at most 4096.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _MOST
    return max(16, min((descriptors - _RESERVED) // 2, _MOST))
