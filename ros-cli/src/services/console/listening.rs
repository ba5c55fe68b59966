//! Whether somebody listens on a TCP port, as the kernel's own tables say (proc(5), `/proc/net/tcp`): nothing
//! connects, so nothing is logged.

use std::fs;

/// State `TCP_LISTEN` in the table.
const LISTEN: &str = "0A";

/// Whether a socket of this network namespace listens on `port`.
#[must_use]
pub fn listens(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .any(|table| fs::read_to_string(table).is_ok_and(|table| listens_in(&table, port)))
}

fn listens_in(table: &str, port: u16) -> bool {
    let wanted = format!("{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit(':').next());
        let state = fields.nth(1);
        local == Some(wanted.as_str()) && state == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_socket_on_that_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     \x20  0: 00000000:0016 00000000:0000 0A 00000000:00000000\n\
                     \x20  1: 0100007F:0050 0100007F:9999 01 00000000:00000000\n";
        assert!(listens_in(table, 22));
        assert!(!listens_in(table, 80), "connected, not listening");
        assert!(!listens_in(table, 23));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listens(listener.local_addr().unwrap().port()));
    }
}
