//! What a person sees before and after logging in.

/// `/etc/issue`: agetty fills in the name (`\n`), the terminal (`\l`) and the addresses (`\4`, `\6`), and
/// shows it again when an address changes.
#[must_use]
pub fn issue(version: &str) -> String {
    format!("\nros {version}  \\n  \\l\n  \\4  \\6\n\n")
}

/// `/etc/motd`.
#[must_use]
pub fn motd(version: &str, user: &str) -> String {
    let sudo = if user == "root" { "" } else { "sudo " };
    let lines = [
        ("the release and the others there are", "ros os list"),
        ("the system's services", "ros service list"),
        ("the system's containers", "system-docker ps"),
        ("this machine's configuration", "ros config export"),
    ];
    let hints: String =
        lines.iter().map(|(what, command)| format!("  {:<40} {sudo}{command}\n", what)).collect();
    let host = "  DOCKER_HOST=unix:///run/system-docker.sock is the system's own engine, for any Docker client\n";
    format!("\nros {version}\n\n{hints}{host}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_no_sudo() {
        assert!(motd("v1", "ros").contains("sudo ros os list\n"));
        assert!(!motd("v1", "root").contains("sudo"));
        assert!(issue("v1.0").contains("ros v1.0"));
    }
}
