//! A seccomp profile of one's own, in the form that Docker takes
//! (<https://github.com/moby/profiles/blob/main/seccomp/default.json>): rules that depend on capabilities, machine and
//! kernel, of which those that hold here make the filter.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSyscall,
};
use serde::Deserialize;

/// The machine's name in profiles.
const MACHINE: &str = "amd64";

/// A profile as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompProfile {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<Machine>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    name: Option<String>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

/// What a rule depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

impl FromStr for SeccompProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let profile: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match (&profile.architectures, &profile.arch_map) {
            (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => Err(
                "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'".into(),
            ),
            _ => Ok(profile),
        }
    }
}

impl SeccompProfile {
    /// The filter for a container with these capabilities on this kernel (`6.12.1-cloud`).
    pub(crate) fn filter(&self, capabilities: &HashSet<Capability>, kernel: &str) -> LinuxSeccomp {
        let rules = self.syscalls.iter().flatten();
        let rules = rules.filter(|rule| rule.holds(capabilities, kernel)).map(Rule::to_oci);
        let mut filter = LinuxSeccomp::default();
        filter
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(self.machines())
            .set_syscalls(Some(rules.collect()));
        filter
    }

    fn machines(&self) -> Option<Vec<Arch>> {
        let named = |word: &String| serde_json::from_value(word.clone().into()).ok();
        let maps = self.arch_map.iter().flatten();
        let ours = maps.filter(|map| map.architecture == "SCMP_ARCH_X86_64");
        let words = ours.flat_map(|map| {
            [&map.architecture].into_iter().chain(map.sub_architectures.iter().flatten())
        });
        let mapped: Vec<Arch> = words.filter_map(named).collect();
        if mapped.is_empty() { self.architectures.clone() } else { Some(mapped) }
    }
}

impl Rule {
    fn holds(&self, capabilities: &HashSet<Capability>, kernel: &str) -> bool {
        let has = |word: &String| {
            Capability::from_str(word.strip_prefix("CAP_").unwrap_or(word))
                .is_ok_and(|capability| capabilities.contains(&capability))
        };
        let includes = self.includes.as_ref().is_none_or(|needs| {
            needs.caps.iter().flatten().all(has)
                && needs.arches.as_ref().is_none_or(|all| all.is_empty() || is_here(all))
                && needs.min_kernel.as_deref().is_none_or(|least| version(kernel) >= version(least))
        });
        let excludes = self.excludes.as_ref().is_some_and(|without| {
            without.caps.iter().flatten().any(has)
                || without.arches.as_ref().is_some_and(|all| is_here(all))
                || without
                    .min_kernel
                    .as_deref()
                    .is_some_and(|least| version(kernel) >= version(least))
        });
        includes && !excludes
    }

    fn to_oci(&self) -> LinuxSyscall {
        let names = self.names.iter().flatten().chain(&self.name).cloned().collect::<Vec<_>>();
        let args = self.args.clone().filter(|args| !args.is_empty());
        let mut rule = LinuxSyscall::default();
        rule.set_names(names).set_action(self.action).set_errno_ret(self.errno_ret).set_args(args);
        rule
    }
}

fn is_here(machines: &[String]) -> bool {
    machines.iter().any(|machine| machine == MACHINE)
}

/// Major and minor number of `6.12.1-cloud`.
fn version(text: &str) -> (u32, u32) {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": null},
            {"name": "socket", "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_BOOT"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}}]}"#;

    fn calls(capabilities: &[Capability], kernel: &str) -> Vec<String> {
        let profile: SeccompProfile = PROFILE.parse().unwrap();
        let filter = profile.filter(&capabilities.iter().copied().collect(), kernel);
        filter.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn rules_hold_by_capability_machine_and_kernel() {
        let always = ["mkdir", "mkdirat", "socket"];
        let with = |more: &[&'static str]| [&always[..], more].concat();
        assert_eq!(calls(&[], "6.12.1"), with(&["clone", "ptrace"]));
        assert_eq!(calls(&[Capability::SysBoot], "4.7"), with(&["reboot", "clone"]));
        assert_eq!(calls(&[Capability::SysAdmin], "4.10-x"), with(&["ptrace"]));
    }

    #[test]
    fn machines_are_this_ones() {
        let profile: SeccompProfile = PROFILE.parse().unwrap();
        assert_eq!(profile.machines().unwrap(), [Arch::ScmpArchX86_64, Arch::ScmpArchX86]);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let both = PROFILE.replacen('{', r#"{"architectures": ["SCMP_ARCH_X86"], "#, 1);
        for text in ["", "{}", r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, &both] {
            assert!(text.parse::<SeccompProfile>().is_err(), "{text}");
        }
    }
}
