//! The STATE partition: its journal is replayed as the boot stage does it, nothing may be left to repair then, and its
//! files are read with a reader that checks ext4's checksums.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ext4_view::{Ext4, FileType};
use ros_api::Generations;

use super::table::{self, Partition};

/// As [`ros_api::paths::GENERATIONS`], on the partition.
pub const GENERATIONS: &str = "/lib/ros/generations";
/// What ros keeps, on the partition.
const ROS: &str = "/lib/ros";

/// The file system.
pub struct State {
    fs: Ext4,
}

/// A file's mode, owner and time, as the store's objects are named by.
#[derive(Clone, Debug)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
}

impl State {
    /// Takes the partition out of the disk, replays the journal, checks, and opens it.
    pub fn read(disk: &Path, at: &Partition, scratch: &Path) -> Result<Self> {
        let image = scratch.join("state.ext4");
        table::take_out(disk, at, &image)?;
        // Corrected is well (e2fsck(8)): that is what a journal is for.
        fsck("-p", &image, 1)?;
        fsck("-fn", &image, 0)?;
        Ok(Self { fs: Ext4::load_from_path(&image).context("open the file system")? })
    }

    /// The content of a file.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        self.fs.read(path).with_context(|| format!("read {path}"))
    }

    /// The content of a file that need not be there.
    pub fn optional(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let there = self.fs.exists(path).with_context(|| format!("look for {path}"))?;
        there.then(|| self.read_file(path)).transpose()
    }

    /// The names in a folder.
    pub fn names(&self, path: &str) -> Result<Vec<(String, FileType)>> {
        let mut names = Vec::new();
        for entry in self.fs.read_dir(path).with_context(|| format!("read {path}"))? {
            let entry = entry.with_context(|| format!("read {path}"))?;
            let name = entry.file_name().as_str().context("a name that is not text")?.to_owned();
            if name != "." && name != ".." {
                names.push((name, entry.file_type()?));
            }
        }
        Ok(names)
    }

    /// Every regular file below `path`.
    pub fn files(&self, path: &str) -> Result<Vec<String>> {
        let (mut files, mut folders) = (Vec::new(), vec![path.to_owned()]);
        while let Some(folder) = folders.pop() {
            for (name, kind) in self.names(&folder)? {
                let path = format!("{folder}/{name}");
                match kind {
                    FileType::Directory => folders.push(path),
                    FileType::Regular => files.push(path),
                    _ => {}
                }
            }
        }
        Ok(files)
    }

    /// Mode, owner and time of a file.
    pub fn meta(&self, path: &str) -> Result<Meta> {
        let meta = self.fs.metadata(path).with_context(|| format!("stat {path}"))?;
        let time = meta.modified();
        Ok(Meta {
            mode: u32::from(meta.mode()) & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (time.seconds(), time.nanoseconds()),
        })
    }

    /// Every document that ros keeps can be read, and no file of it is empty: what has its name has its content.
    pub fn documents_are_whole(&self) -> Result<()> {
        for path in self.files(ROS)? {
            let name = path.rsplit('/').next().unwrap_or(&path);
            // Being written when the power went: counts for nothing.
            if path.contains("/.") || name.ends_with(".lock") {
                continue;
            }
            let content = self.read_file(&path)?;
            // Stamps are empty; so may instance data be.
            let may_be_empty = path.contains("/instance/");
            ensure!(may_be_empty || !content.is_empty(), "{path} is empty");
            if name.ends_with(".json") {
                serde_json::from_slice::<serde::de::IgnoredAny>(&content)
                    .with_context(|| format!("parse {path}"))?;
            } else if name.ends_with(".yml") {
                serde_yaml::from_slice::<serde_yaml::Value>(&content)
                    .with_context(|| format!("parse {path}"))?;
            }
        }
        Ok(())
    }

    /// The generations, copied to `to` without their programs.
    pub fn generations(&self, to: &Path) -> Result<Generations> {
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to)?;
        for (name, kind) in self.names(GENERATIONS)? {
            let path = format!("{GENERATIONS}/{name}");
            if kind == FileType::Symlink {
                let target = self.fs.read_link(path.as_str())?;
                symlink(target.to_str().context("a name that is not text")?, to.join(name))?;
            } else if name.parse::<u32>().is_ok() {
                fs::create_dir(to.join(&name))?;
                for document in ["generation.json", "release.yml"] {
                    let content = self.read_file(&format!("{path}/{document}"))?;
                    fs::write(to.join(&name).join(document), content)?;
                }
            }
        }
        Ok(Generations::at(to))
    }
}

fn fsck(how: &str, image: &Path, at_most: i32) -> Result<()> {
    let output = Command::new("e2fsck").arg(how).arg(image).output().context("start e2fsck")?;
    let code = output.status.code().unwrap_or(-1);
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!((0..=at_most).contains(&code), "e2fsck {how} ended with {code}: {}", said.trim());
    Ok(())
}
