"""rules_cc for a Bazel without a network: the names it exports, bound to Bazel's native rules.

A py_test loads rules_cc to find a C++ toolchain (for coverage), though nothing here is C++.
"""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
