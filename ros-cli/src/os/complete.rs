//! Whether an installed generation can come up: its kernel and initrd are whole, its binaries and every image of its
//! services are here. Looked at before it is put on trial, for nothing is fetched at boot.

use anyhow::{Result, bail};
use ros_api::release::PROGRAMS;
use ros_api::{Generation, Release};

use super::boot_sets::BootSets;
use super::machine::Machine;
use crate::services::engine::Engine;

/// Refuses a generation of which something is missing.
///
/// # Errors
/// Says what is missing, and how to have it again.
pub async fn check(machine: &Machine, generation: &Generation, engine: &Engine) -> Result<()> {
    let mut missing = Vec::new();
    let release = match machine.generations.release(generation.number) {
        Ok(release) => release,
        Err(error) => return refuse(generation, &[error.to_string()]),
    };
    if let Err(error) = BootSets::of_machine().verify(&release.boot_set) {
        missing.push(format!("{error:#}"));
    }
    for name in PROGRAMS {
        let path = machine.generations.dir(generation.number).join("bin").join(name);
        if !path.is_file() {
            missing.push(format!("{} is missing", path.display()));
        }
    }
    missing.extend(missing_images(engine, generation, &release).await);
    refuse(generation, &missing)
}

/// The services of a generation whose images are not here, each with why.
pub async fn missing_images(
    engine: &Engine,
    generation: &Generation,
    release: &Release,
) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, service) in &release.services {
        let reference = release.service_reference(&generation.image, service);
        let names = [reference.to_string(), service.digest.to_string()];
        if let Err(error) = engine.image(&names).await {
            missing.push(format!("{name}: {error:#}"));
        }
    }
    missing
}

fn refuse(generation: &Generation, missing: &[String]) -> Result<()> {
    let Generation { number, version, image, .. } = generation;
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "{version} (generation {number}) is not whole: {}: `ros os upgrade -i {image}` fetches what is missing",
        missing.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use ros_api::generation::Status;

    use super::*;
    use crate::os::machine::tests::machine;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_have_it_again() {
        let machine = machine(&[("v1.0", Status::Good)]);
        let generation = &machine.installed[0];
        assert!(refuse(generation, &[]).is_ok());
        let error = refuse(generation, &["ntp: image x".into()]).unwrap_err().to_string();
        assert!(
            error.contains("ntp: image x") && error.contains("upgrade -i h:1/os:v1.0"),
            "{error}"
        );
    }
}
