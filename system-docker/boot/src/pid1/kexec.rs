//! A generation's kernel started by the one that runs: no firmware, no boot loader. Loaded when all else has ended and
//! BOOT is still mounted. Such a boot is a try of a trial like any other, so it is counted here, where the boot loader
//! would count it: only when the kernel is loaded, and before it is started.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;

use ros_api::boot::{BootEnv, kernel_arguments};
use ros_api::durable::named;
use ros_api::{Generations, paths};

/// Loads what generation `number` boots with; a full reboot does the same when this fails.
///
/// # Errors
/// Which file cannot be read, or what the kernel said.
pub fn load(number: u32) -> io::Result<()> {
    let generations = Generations::at(Path::new(paths::GENERATIONS));
    let (generation, set) = (generations.get(number)?, generations.release(number)?.boot_set);
    let arguments = kernel_arguments(&set, number, &generation.append).join(" ");
    let dir = Path::new(paths::BOOT_SETS).join(set.digest.hex());
    let open = |name: &str| {
        let path = dir.join(name);
        File::open(&path).map_err(|e| named("open", &path, &e))
    };
    let (kernel, initrd) = (open("vmlinuz")?, open("initrd")?);
    ros_sys::kexec::load(&kernel, &initrd, &CString::new(arguments)?)
        .map_err(|e| named("load", &dir, &e))?;
    count(Path::new(paths::GRUB_ENV), number)
}

fn count(path: &Path, number: u32) -> io::Result<()> {
    let mut env = BootEnv::read(path)?;
    if env.take_try(number) { env.write(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_is_taken_of_the_trial_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("grubenv");
        let mut env = BootEnv::default();
        env.set_default(1);
        env.set_trial(2);
        env.write(&path).unwrap();
        for (number, left) in [(1, 3), (2, 2), (2, 1), (2, 0), (2, 0)] {
            count(&path, number).unwrap();
            assert_eq!(BootEnv::read(&path).unwrap().trial(), Some((2, left)));
        }
    }
}
