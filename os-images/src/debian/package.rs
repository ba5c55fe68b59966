//! One `.deb`: its control fields and the entries of its data archive.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::command::{command, output, text};
use crate::tree::{Entry, Kind, normal};

/// A package whose file is here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Architecture (`amd64`, `all`).
    pub architecture: String,
    /// Name of the source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// The `.deb`.
    #[serde(skip)]
    pub file: PathBuf,
}

impl Package {
    /// Reads the control fields of `file`.
    ///
    /// # Errors
    /// When it is not a package.
    pub fn open(file: &Path) -> Result<Self> {
        let format = "--showformat=${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}";
        let line = text(command("dpkg-deb").arg("--show").arg(format).arg(file))?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, version, architecture, source, source_version] = fields[..] else {
            bail!("{} has unexpected fields: {line}", file.display())
        };
        Ok(Self {
            name: name.into(),
            version: version.into(),
            architecture: architecture.into(),
            source: source.into(),
            source_version: source_version.into(),
            file: file.to_owned(),
        })
    }

    /// Everything that the package installs, by normal path. Hard links are copies.
    ///
    /// # Errors
    /// When the data archive cannot be read.
    pub fn entries(&self) -> Result<BTreeMap<String, Entry>> {
        let data = output(command("dpkg-deb").arg("--fsys-tarfile").arg(&self.file))?;
        let source: Rc<str> = Rc::from(self.source.as_str());
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(data.as_slice());
        for member in archive.entries().context("read the package")? {
            let mut member = member.with_context(|| format!("read {}", self.file.display()))?;
            let path = String::from_utf8(member.path_bytes().into_owned())
                .with_context(|| format!("{} has a name that is not UTF-8", self.file.display()))?;
            let path = normal(&path);
            let Some(kind) = kind_of(&mut member, &entries)? else { continue };
            let header = member.header();
            let owner = |id: std::io::Result<u64>| {
                id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
            };
            let mode = header.mode().unwrap_or(0o644) & 0o7777;
            let (uid, gid) = (owner(header.uid()), owner(header.gid()));
            let entry = Entry { kind, mode, uid, gid, source: source.clone() };
            entries.insert(path, entry);
        }
        Ok(entries)
    }
}

fn kind_of(
    member: &mut tar::Entry<'_, &[u8]>,
    before: &BTreeMap<String, Entry>,
) -> Result<Option<Kind>> {
    let target = member.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
    let kind = member.header().entry_type();
    Ok(match (kind.is_dir(), kind.is_symlink(), kind.is_hard_link(), target) {
        (true, ..) => Some(Kind::Dir),
        (_, true, _, Some(target)) => Some(Kind::Link(target)),
        (_, _, true, Some(target)) => before.get(&normal(&target)).map(|entry| entry.kind.clone()),
        _ if kind.is_file() => {
            let mut content = Vec::new();
            member.read_to_end(&mut content).context("read the package")?;
            Some(Kind::File(Rc::from(content)))
        }
        _ => None,
    })
}
