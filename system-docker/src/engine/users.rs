//! User namespaces: which containers have one of their own, and which ids of the host it is given. A range is the
//! container's from its creation to its removal, and in its record.

use std::collections::BTreeSet;

use bollard_stubs::models::{HostConfig, HostConfigCgroupnsModeEnum};
use ros_runtime::IdRange;

use super::error::{ApiError, Result};

/// Below are ids of the host's own and of subuid(5).
const FIRST: u32 = 1 << 20;
/// Ids of one container: all that 16 bits have.
const COUNT: u32 = 1 << 16;
/// The last range ends where ids would be negative for some.
const RANGES: u32 = (i32::MAX as u32 - FIRST) / COUNT;

/// Whether a container gets ranges when it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remap {
    /// Only who asks for it.
    #[default]
    Asked,
    /// Every one that does not ask for the host's.
    Auto,
}

/// Whether `host` asks for a user namespace of its own; refuses what cannot be had in one.
pub fn asked(host: &HostConfig, remap: Remap) -> Result<bool> {
    match host.userns_mode.as_deref().unwrap_or_default() {
        "host" => return Ok(false),
        "" if remap == Remap::Asked => return Ok(false),
        "" | "auto" => {}
        mode => {
            return Err(ApiError::bad(format!(
                "invalid user namespace mode {mode:?}: use auto or host"
            )));
        }
    }
    match conflict(host) {
        Some(what) => Err(ApiError::bad(format!(
            "{what} cannot be had in a user namespace: leave it out, or run the container with --userns=host"
        ))),
        None => Ok(true),
    }
}

/// What belongs to the host, or to another container's user namespace.
fn conflict(host: &HostConfig) -> Option<&'static str> {
    let foreign = |mode: &Option<String>| {
        mode.as_deref().is_some_and(|mode| mode == "host" || mode.starts_with("container:"))
    };
    let table = [
        (host.privileged == Some(true), "privileged mode"),
        (foreign(&host.network_mode), "the network of the host or of another container"),
        (foreign(&host.pid_mode), "the processes of the host or of another container"),
        (foreign(&host.ipc_mode), "the shared memory of the host or of another container"),
        (host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST), "the host's cgroups"),
    ];
    table.into_iter().find(|(is, _)| *is).map(|(_, what)| what)
}

/// The lowest range that nobody has.
pub fn free(taken: impl Iterator<Item = IdRange>) -> Result<IdRange> {
    let taken: BTreeSet<u32> = taken.map(|range| range.first).collect();
    let mut all = (0..RANGES).map(|number| FIRST + number * COUNT);
    let first = all.find(|first| !taken.contains(first));
    let first = first.ok_or_else(|| ApiError::conflict("every range of ids is taken"))?;
    Ok(IdRange { first, count: COUNT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_docker_s_and_podman_s() {
        let mode = |mode: &str| HostConfig { userns_mode: Some(mode.into()), ..Default::default() };
        for (host, remap, expected) in [
            (HostConfig::default(), Remap::Asked, Some(false)),
            (HostConfig::default(), Remap::Auto, Some(true)),
            (mode("host"), Remap::Auto, Some(false)),
            (mode("auto"), Remap::Asked, Some(true)),
            (mode("private"), Remap::Asked, None),
            (HostConfig { privileged: Some(true), ..mode("auto") }, Remap::Asked, None),
            (HostConfig { network_mode: Some("host".into()), ..mode("") }, Remap::Auto, None),
            (
                HostConfig { pid_mode: Some("container:x".into()), ..mode("auto") },
                Remap::Auto,
                None,
            ),
        ] {
            assert_eq!(asked(&host, remap).ok(), expected, "{host:?}");
        }
    }

    #[test]
    fn ranges_do_not_meet_and_are_given_again() {
        let mut given: Vec<IdRange> = Vec::new();
        for _ in 0..3 {
            given.push(free(given.iter().copied()).unwrap());
        }
        let firsts: Vec<u32> = given.iter().map(|range| range.first).collect();
        assert_eq!(firsts, [FIRST, FIRST + COUNT, FIRST + 2 * COUNT]);
        let middle = given.remove(1);
        assert_eq!(free(given.iter().copied()).unwrap(), middle);
        let all = (0..RANGES).map(|number| IdRange { first: FIRST + number * COUNT, count: COUNT });
        assert!(free(all).is_err());
    }
}
