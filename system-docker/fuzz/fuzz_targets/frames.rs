//! The frames between shim and daemon, and lines of a container's log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ros_runtime::fuzzing::frames(data);
    system_docker::fuzzing::log(data);
});
