//! Which terminals get a login: the first virtual one, and the serial ones that the kernel was told of
//! (`console=ttyS0,115200n8`).

use super::supervise::Program;

/// A terminal with a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Its device below `/dev`.
    pub device: String,
    /// It is a virtual one, not a line.
    pub virtual_one: bool,
}

/// The terminals of a machine with this kernel command line, present or not.
#[must_use]
pub fn terminals(cmdline: &str) -> Vec<Terminal> {
    let mut all = vec![Terminal { device: "tty1".into(), virtual_one: true }];
    for device in cmdline.split_whitespace().filter_map(|word| word.strip_prefix("console=")) {
        let device = device.split(',').next().unwrap_or(device);
        let number = device.strip_prefix("tty").unwrap_or("");
        let virtual_one = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let sound = !device.is_empty() && device.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if sound && !virtual_one && device != "null" && all.iter().all(|seen| seen.device != device)
        {
            all.push(Terminal { device: device.to_owned(), virtual_one: false });
        }
    }
    all
}

/// What keeps a login on `terminal`. `autologin` names who is logged in there without being asked.
///
/// agetty takes the terminal as its controlling one, so it must lead a session: `setsid` sees to that.
#[must_use]
pub fn program(terminal: &Terminal, autologin: Option<&str>) -> Program {
    let mut command = vec!["setsid".to_owned(), "agetty".to_owned()];
    if let Some(user) = autologin {
        command.extend(["--autologin".to_owned(), user.to_owned()]);
    }
    let device = terminal.device.clone();
    if terminal.virtual_one {
        command.extend(["--noclear".to_owned(), device, "linux".to_owned()]);
    } else {
        command.extend([
            "--keep-baud".to_owned(),
            "115200,57600,38400,9600".to_owned(),
            device,
            "vt220".to_owned(),
        ]);
    }
    Program { name: format!("getty {}", terminal.device), command }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_consoles_get_a_login_too() {
        let table: [(&str, &[&str]); 5] = [
            ("", &["tty1"]),
            ("console=tty0 console=ttyS0,115200n8 quiet", &["tty1", "ttyS0"]),
            ("console=hvc0 console=ttyAMA0 console=hvc0", &["tty1", "hvc0", "ttyAMA0"]),
            ("console=null console= console=../x", &["tty1"]),
            ("xconsole=ttyS1", &["tty1"]),
        ];
        for (cmdline, expected) in table {
            let found: Vec<String> =
                terminals(cmdline).into_iter().map(|terminal| terminal.device).collect();
            assert_eq!(found, expected, "{cmdline}");
        }
    }

    #[test]
    fn autologin_is_agettys() {
        let serial = &terminals("console=ttyS0")[1];
        assert_eq!(
            program(serial, Some("ros")).command.join(" "),
            "setsid agetty --autologin ros --keep-baud 115200,57600,38400,9600 ttyS0 vt220"
        );
        assert_eq!(
            program(&terminals("")[0], None).command.join(" "),
            "setsid agetty --noclear tty1 linux"
        );
    }
}
