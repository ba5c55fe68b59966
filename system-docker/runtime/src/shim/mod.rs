//! The shim: one process beside each container (or exec), of one thread, that outlives the daemon. It makes the
//! container, is the only one that waits on its processes, carries and logs its output, and writes down how it ended.

pub(crate) mod record;
