//! `archive`: reads and writes files of a container's root, for `docker cp` and `export`. Runs as a process of its own that
//! changes its root before it looks at any path: whatever links the container has, they lead nowhere else.
//!
//! The root is an inherited file descriptor, or layers and mounts that are put together here, where nobody else sees them. `get` and `export` write a tar to stdout, `put` reads one from stdin, `stat` prints JSON.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use serde_json::json;

/// Exit code: there is no such file.
pub const MISSING: u8 = 2;
/// Exit code: it is no folder.
pub const NO_FOLDER: u8 = 3;
/// Exit code: the file system is read-only.
pub const READ_ONLY: u8 = 4;

/// What to do, and with which path in the container.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    root_fd: Option<u32>,
    /// The container's own user namespace.
    #[arg(long)]
    users_fd: Option<u32>,
    /// What to put together: a [`Layers`] as JSON.
    #[arg(long)]
    layers: Option<String>,
    #[arg(value_enum)]
    what: What,
    #[arg(default_value = "/")]
    path: PathBuf,
    /// Refuse to replace a folder by something else, and the other way round.
    #[arg(long)]
    keep_kinds: bool,
}

/// The root of a container that does not run.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Layers {
    /// Its layers.
    pub root: ros_runtime::Root,
    /// What it would have mounted.
    pub mounts: Vec<ros_runtime::Mount>,
    /// Any folder: the root is mounted there.
    pub at: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Get,
    Put,
    Stat,
    Export,
}

/// Does it.
pub fn run(args: &Args) -> ExitCode {
    match enter(args).and_then(|()| act(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let kind = error
                .chain()
                .find_map(|cause| cause.downcast_ref::<io::Error>())
                .map(io::Error::kind);
            ExitCode::from(match kind {
                Some(io::ErrorKind::NotFound) => MISSING,
                Some(io::ErrorKind::NotADirectory) => NO_FOLDER,
                Some(io::ErrorKind::ReadOnlyFilesystem) => READ_ONLY,
                _ => 1,
            })
        }
    }
}

fn enter(args: &Args) -> Result<()> {
    let users = args.users_fd.map(|fd| fs::File::open(format!("/proc/self/fd/{fd}")));
    let users = users.transpose().context("open the container's user namespace")?;
    let root = match (&args.layers, args.root_fd) {
        (Some(text), _) => {
            let layers: Layers = serde_json::from_str(text).context("--layers")?;
            ros_runtime::mount_root(&layers.root, &layers.at, &layers.mounts)?;
            layers.at
        }
        (None, Some(fd)) => format!("/proc/self/fd/{fd}").into(),
        (None, None) => bail!("expected --root-fd or --layers"),
    };
    rustix::process::chdir(root).context("enter the container's root")?;
    rustix::process::chroot(".").context("make it the root")?;
    rustix::process::chdir("/").context("enter the container's root")?;
    users.map_or(Ok(()), become_its_root)
}

/// Goes on as the root of the container's user namespace: only it has the files there.
fn become_its_root(namespace: fs::File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER).context("enter the container's user namespace")?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).and_then(|()| setresuid(uid, uid, uid)).context("become its root")
}

fn act(args: &Args) -> Result<()> {
    let path = absolute(&args.path);
    match args.what {
        What::Get => get(&path),
        What::Put => put(&path, args.keep_kinds),
        What::Stat => stat(&path),
        What::Export => export(),
    }
}

/// From the root on, without `.` and `..`; a closing `/.` is kept in mind by the caller's client.
fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => drop(absolute.pop()),
            _ => {}
        }
    }
    absolute
}

fn get(path: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut tar = builder();
    if meta.is_dir() {
        tar.append_dir_all(&name, path).with_context(|| path.display().to_string())?;
    } else {
        tar.append_path_with_name(path, &name).with_context(|| path.display().to_string())?;
    }
    finish(tar)
}

fn export() -> Result<()> {
    let mut tar = builder();
    for entry in fs::read_dir("/").context("read /")? {
        let entry = entry.context("read /")?;
        let (path, name) = (entry.path(), entry.file_name());
        // What the kernel mounts there is nobody's content.
        if entry.file_type()?.is_dir() && matches!(name.to_str(), Some("proc" | "sys" | "dev")) {
            tar.append_dir(&name, &path)?;
        } else if entry.file_type()?.is_dir() {
            tar.append_dir_all(&name, &path).with_context(|| path.display().to_string())?;
        } else if !entry.file_type()?.is_socket() {
            tar.append_path_with_name(&path, &name).with_context(|| path.display().to_string())?;
        }
    }
    finish(tar)
}

fn builder() -> tar::Builder<io::BufWriter<io::Stdout>> {
    // As much as the pipe holds: fewer, larger pieces for whoever reads.
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(64 << 10, io::stdout()));
    tar.follow_symlinks(false);
    tar
}

fn finish(tar: tar::Builder<io::BufWriter<io::Stdout>>) -> Result<()> {
    tar.into_inner().and_then(|mut out| out.flush()).context("write the archive")
}

fn put(path: &Path, keep_kinds: bool) -> Result<()> {
    let meta = fs::metadata(path).with_context(|| path.display().to_string())?;
    if !meta.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory))
            .with_context(|| path.display().to_string());
    }
    let plain = ros_image::decompressed(io::stdin().lock()).context("read the archive")?;
    let mut archive = tar::Archive::new(ros_image::Filled::new(plain));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    for entry in archive.entries().context("read the archive")? {
        let mut entry = entry.context("read the archive")?;
        let name = entry.path().context("read the archive")?.into_owned();
        let target = path.join(&name);
        let is_dir = entry.header().entry_type().is_dir();
        if keep_kinds && fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir() != is_dir) {
            bail!("cannot replace {}: one is a directory and the other is not", target.display());
        }
        entry.unpack_in(path).with_context(|| target.display().to_string())?;
    }
    // The padding behind the end: whoever writes must not find the pipe closed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).context("read the archive")?;
    Ok(())
}

/// As Docker's `X-Docker-Container-Path-Stat` has it; the mode is Go's `os.FileMode`.
fn stat(path: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let link = if meta.is_symlink() { resolved(path) } else { String::new() };
    let name =
        path.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned());
    let answer = json!({
        "name": name, "size": meta.len(), "mode": go_mode(&meta), "linkTarget": link,
        "mtime": crate::engine::time::rfc3339(meta.mtime() * 1_000_000_000 + meta.mtime_nsec()),
    });
    println!("{answer}");
    Ok(())
}

fn resolved(path: &Path) -> String {
    let target = fs::read_link(path).unwrap_or_default();
    let whole = fs::canonicalize(path)
        .unwrap_or_else(|_| path.parent().unwrap_or(Path::new("/")).join(target));
    whole.display().to_string()
}

fn go_mode(meta: &fs::Metadata) -> u32 {
    let kind = meta.file_type();
    let bits = [
        (kind.is_dir(), 1 << 31),
        (kind.is_symlink(), 1 << 27),
        (kind.is_block_device(), 1 << 26),
        (kind.is_fifo(), 1 << 25),
        (kind.is_socket(), 1 << 24),
        (meta.mode() & 0o4000 != 0, 1 << 23),
        (meta.mode() & 0o2000 != 0, 1 << 22),
        (kind.is_char_device(), 1 << 21 | 1 << 26),
        (meta.mode() & 0o1000 != 0, 1 << 20),
    ];
    bits.iter().filter(|(is, _)| *is).fold(meta.mode() & 0o777, |mode, (_, bit)| mode | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, expected) in
            [("a/b", "/a/b"), ("/../../etc", "/etc"), ("/a/./b/..", "/a"), ("", "/")]
        {
            assert_eq!(absolute(Path::new(path)), Path::new(expected));
        }
    }
}
