//! The container `ros-install`: the installer of the release that is installed, with the host's disks and programs. It needs
//! nobody: the command that started it only follows it.

use anyhow::{Context, Result, bail};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use ros_api::{Digest, Reference, paths};

use super::talk;

/// The container's name.
const NAME: &str = "ros-install";
/// What a program answers that does not know what it was asked: clap's exit code.
const UNKNOWN: i64 = 2;

/// What is installed where.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// The disk.
    pub node: &'a str,
    /// The release.
    pub image: &'a Reference,
    /// Its manifest.
    pub digest: Digest,
    /// Its version.
    pub version: &'a str,
    /// Kernel arguments to add.
    pub append: &'a str,
}

/// Refuses to begin while another installation is under way.
///
/// # Errors
/// When one is, or the daemon does not answer.
pub async fn refuse_second(docker: &Docker) -> Result<()> {
    let there = docker.inspect_container(NAME, None::<InspectContainerOptions>).await;
    let there = match there {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
        there => there.context("look for another installation")?,
    };
    if there.state.and_then(|state| state.running) == Some(true) {
        bail!("an installation is under way: `system-docker logs -f {NAME}` shows it");
    }
    Ok(())
}

/// Runs the installer to its end.
///
/// # Errors
/// With what it said when it failed. When it cannot be followed any more, it goes on all the same.
pub async fn run(docker: &Docker, task: &Task<'_>) -> Result<()> {
    // One that nobody waited for is in the way.
    remove(docker).await;
    let options = CreateContainerOptionsBuilder::default().name(NAME).build();
    docker.create_container(Some(options), container(task)).await.context("make the installer")?;
    let ended = follow(docker, task).await;
    remove(docker).await;
    ended
}

/// Never by force: one that runs is writing to a disk.
async fn remove(docker: &Docker) {
    let options = RemoveContainerOptionsBuilder::default().build();
    let _ = docker.remove_container(NAME, Some(options)).await;
}

fn container(task: &Task<'_>) -> ContainerCreateBody {
    let words = ["--device", task.node, "--image"].map(str::to_owned).into_iter();
    let words = words.chain([task.image.to_string(), "--digest".into(), task.digest.to_string()]);
    let mut words: Vec<String> = words.collect();
    if !task.append.is_empty() {
        words.push(format!("--append={}", task.append));
    }
    let list = |all: &[&str]| Some(all.iter().map(|&it| it.to_owned()).collect::<Vec<String>>());
    let host_config = HostConfig {
        binds: Some(binds()),
        network_mode: Some("none".into()),
        // The first process of a container that is this program would be taken for the machine's.
        init: Some(true),
        // It mounts, and tells the kernel of partitions.
        cap_add: list(&["SYS_ADMIN", "DAC_READ_SEARCH"]),
        security_opt: list(&["seccomp=unconfined"]),
        // Disks, and the kernel log.
        device_cgroup_rules: list(&["b *:* rwm", "c 1:11 w"]),
        ..Default::default()
    };
    let program = format!("{}/bin/system-docker", paths::RELEASE_DIR);
    ContainerCreateBody {
        image: Some(task.image.with_digest(task.digest).to_string()),
        entrypoint: Some(vec![program, "install".into()]),
        cmd: Some(words),
        host_config: Some(host_config),
        ..Default::default()
    }
}

/// The programs that make file systems are the host's: `/usr`, and where their loader and settings are looked for.
fn binds() -> Vec<String> {
    let same = |path: &str, how: &str| format!("{path}:{path}{how}");
    vec![
        same("/dev", ""),
        same("/usr", ":ro"),
        // The loader is a link from the one to the other.
        "/usr/lib64:/lib64:ro".into(),
        "/usr/lib:/lib:ro".into(),
        same("/etc/mke2fs.conf", ":ro"),
        same(paths::STORE, ""),
        same(paths::INSTALL, ":ro"),
    ]
}

async fn follow(docker: &Docker, task: &Task<'_>) -> Result<()> {
    docker
        .start_container(NAME, None::<StartContainerOptions>)
        .await
        .context("start the installer")?;
    let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
    let mut lines = std::pin::pin!(docker.logs(NAME, Some(options)));
    let mut complaints = String::new();
    while let Some(line) = lines.next().await {
        match line.with_context(|| format!("follow {NAME}, which goes on"))? {
            LogOutput::StdErr { message } => complaints += &String::from_utf8_lossy(&message),
            other => talk(&other.to_string()),
        }
    }
    let ended =
        docker.wait_container(NAME, None::<WaitContainerOptions>).try_collect::<Vec<_>>().await;
    let said = complaints.trim().trim_start_matches("system-docker: ");
    match ended {
        Ok(_) => Ok(()),
        Err(Error::DockerContainerWaitError { code: UNKNOWN, .. }) => bail!(
            "{} does not know how to install itself: nothing was written; take a newer one",
            task.version
        ),
        Err(Error::DockerContainerWaitError { .. }) => bail!("{said}"),
        Err(error) => Err(error).context("wait for the installer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installer_has_what_it_needs_and_is_not_privileged() {
        let image = "h:1/os:v1".parse().unwrap();
        let digest = Digest::of(b"m");
        let task =
            Task { node: "/dev/vda", image: &image, digest, version: "v1", append: "-x a=b" };
        let made = container(&task);
        let words = made.cmd.unwrap();
        assert_eq!(words.last().unwrap(), "--append=-x a=b", "one word, whatever is in it");
        assert_eq!(words[..2], ["--device", "/dev/vda"]);
        let host = made.host_config.unwrap();
        assert_eq!((host.privileged, host.init), (None, Some(true)));
        assert!(host.binds.unwrap().contains(&"/usr:/usr:ro".to_owned()));
    }
}
