//! Whether a boot that a change needs can do without firmware and boot loader: the running kernel starts the next one.

use std::fs;
use std::path::Path;

use super::plan::{Class, Plan};

/// What the kernel shows of itself.
#[derive(Clone, Debug)]
pub struct Platform {
    sys: std::path::PathBuf,
    proc: std::path::PathBuf,
}

impl Platform {
    /// This machine.
    #[must_use]
    pub fn of_machine() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }

    /// Why the kernel that runs cannot start another; none when it can.
    #[must_use]
    pub fn hindrance(&self) -> Option<String> {
        let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).ok();
        if read(&self.sys, "kernel/kexec_loaded").is_none() {
            return Some("the kernel that runs cannot do it".into());
        }
        if read(&self.proc, "sys/kernel/kexec_load_disabled").is_some_and(|it| it.trim() != "0") {
            return Some("kernel.kexec_load_disabled is set".into());
        }
        // `none [integrity] confidentiality`; secure boot locks down too.
        let lockdown = read(&self.sys, "kernel/security/lockdown").unwrap_or_default();
        if lockdown.contains('[') && !lockdown.contains("[none]") {
            return Some("the kernel that runs is locked down".into());
        }
        None
    }

    /// Whether this boot came from a kernel, not from a boot loader. The number is what the kernel's own loader writes
    /// (arch/x86/kernel/kexec-bzimage64.c).
    #[must_use]
    pub fn was_kexec(&self) -> bool {
        let by = fs::read_to_string(self.proc.join("sys/kernel/bootloader_type"));
        by.is_ok_and(|by| by.trim() == "208")
    }
}

impl Plan {
    /// When this needs a boot and kexec is `wanted`: that way, or why not.
    pub fn boot_by_kexec(&mut self, wanted: bool, platform: &Platform) {
        if self.boot.is_none() || !wanted {
            return;
        }
        self.no_kexec = platform.hindrance();
        self.kexec = self.no_kexec.is_none();
        if self.kexec && self.class == Class::Reboot {
            self.class = Class::Kexec;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::machine::tests::release;

    fn platform(dir: &Path, files: &[(&str, &str)]) -> Platform {
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Platform { sys: dir.join("sys"), proc: dir.join("proc") }
    }

    const LOADED: (&str, &str) = ("sys/kernel/kexec_loaded", "0\n");
    const LOCKDOWN: &str = "sys/kernel/security/lockdown";

    #[test]
    fn what_hinders_is_said() {
        let disabled = "proc/sys/kernel/kexec_load_disabled";
        let table: [(&[(&str, &str)], &str); 5] = [
            (&[], "cannot"),
            (&[LOADED], ""),
            (&[LOADED, (disabled, "0\n"), (LOCKDOWN, "[none] integrity confidentiality\n")], ""),
            (&[LOADED, (disabled, "1\n")], "kexec_load_disabled"),
            (&[LOADED, (LOCKDOWN, "none [integrity] confidentiality\n")], "locked down"),
        ];
        for (files, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            let said = platform(dir.path(), files).hindrance().unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        }
    }

    #[test]
    fn only_a_boot_that_is_needed_and_wanted_is_by_kexec() {
        let dir = tempfile::tempdir().unwrap();
        let can = platform(dir.path(), &[LOADED]);
        let cannot = Platform { sys: "/nonexistent".into(), proc: "/nonexistent".into() };
        let (old, new) = (release("v1", "b", &[]), release("v2", "c", &[]));
        let planned = |boot: bool, wanted, platform| {
            let image = "h:1/os:v2".parse().unwrap();
            let mut plan = Plan::of(&old, &new, &image, ros_api::Digest::of(b"d"), &[]);
            plan.boot = boot.then(|| "kernel or initrd change".into());
            plan.boot_by_kexec(wanted, platform);
            (plan.class, plan.kexec, plan.text())
        };
        let (class, kexec, text) = planned(true, true, &can);
        assert_eq!((class, kexec), (Class::Kexec, true));
        assert!(text.contains("class     kexec, by kexec: kernel or initrd change"), "{text}");
        let (class, kexec, text) = planned(true, true, &cannot);
        assert_eq!((class, kexec), (Class::Reboot, false));
        assert!(text.contains("(no kexec: the kernel that runs cannot do it)"), "{text}");
        assert_eq!(planned(true, false, &can).0, Class::Reboot);
        assert!(!planned(false, true, &can).1);
    }
}
