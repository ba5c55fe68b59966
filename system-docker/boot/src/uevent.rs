//! The kernel's device events (netlink, `KOBJECT_UEVENT`): what the boot stage waits on instead of sleeping.
//! A message is `action@devpath\0KEY=value\0…`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::child::wait_readable;

/// The kernel's multicast group (udev's own messages are group 2).
const KERNEL: u32 = 1;

/// What the boot stage wants to know of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `change`, …
    pub action: String,
    /// `block`, `pci`, …
    pub subsystem: String,
    /// What [`crate::modules`] may know a module for.
    pub modalias: Option<String>,
}

impl Uevent {
    fn parse(message: &[u8]) -> Self {
        let mut event = Self::default();
        for field in message.split(|byte| *byte == 0) {
            let field = String::from_utf8_lossy(field);
            match field.split_once('=') {
                Some(("ACTION", value)) => event.action = value.into(),
                Some(("SUBSYSTEM", value)) => event.subsystem = value.into(),
                Some(("MODALIAS", value)) => event.modalias = Some(value.into()),
                _ => {}
            }
        }
        event
    }
}

/// An open event socket: nothing that happens after [`Uevents::open`] is missed.
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel has no netlink.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self { socket })
    }

    /// Waits at most `limit` for something to happen, then gives all that happened. A lost event (overflow)
    /// counts as an unnamed one, so the caller looks again.
    ///
    /// # Errors
    /// As the socket says.
    pub fn wait(&self, limit: Duration) -> io::Result<Vec<Uevent>> {
        wait_readable(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(limit))?;
        let mut events = Vec::new();
        let mut buffer = [0u8; 8192];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => events.push(Uevent::parse(&buffer[..length])),
                Err(rustix::io::Errno::AGAIN) => return Ok(events),
                Err(rustix::io::Errno::NOBUFS) => events.push(Uevent::default()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_fields_between_zeros() {
        let event = Uevent::parse(
            b"add@/devices/x\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v1d2\0SEQNUM=1\0",
        );
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "pci"));
        assert_eq!(event.modalias.as_deref(), Some("pci:v1d2"));
        assert_eq!(Uevent::parse(b"\xff\0="), Uevent::default());
    }
}
