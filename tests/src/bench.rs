//! A case's own copies of releases: signed, packed into files, pushed into its registry. Those that all cases share
//! stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::artifacts::{images, run};

/// The folder with the copies.
#[derive(Debug)]
pub struct Bench {
    out: PathBuf,
    builder: PathBuf,
}

impl Bench {
    /// In `dir`, which is emptied; `builder` is the program `os-images`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(dir: &Path, builder: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("releases"))?;
        Ok(Self { out: dir.to_owned(), builder })
    }

    /// Takes a copy of the release `version`.
    ///
    /// # Errors
    /// When it is not built.
    pub fn take(&self, version: &str) -> Result<()> {
        let from = images().join("releases").join(version);
        let mut copy = Command::new("cp");
        run(copy.args(["-al"]).arg(&from).arg(self.out.join("releases")))
    }

    /// Builds the release `version` of the folder `definitions`, with the programs beside the builder.
    ///
    /// # Errors
    /// When the builder fails.
    pub fn build(&self, version: &str, definitions: &Path) -> Result<()> {
        let programs = self.builder.parent().context("the builder is in no folder")?;
        let mut builder = self.builder();
        builder.arg("--bin-dir").arg(programs).arg("--definitions").arg(definitions);
        run(builder.arg("--cache").arg(images().join("cache")).args(["release", version]))
    }

    /// Removes a copy.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, version: &str) -> Result<()> {
        let copy = self.out.join("releases").join(version);
        fs::remove_dir_all(&copy).with_context(|| format!("remove {}", copy.display()))
    }

    /// A new private key; its public half as PEM.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn key(&self, name: &str) -> Result<String> {
        let file = self.out.join(name);
        let mut make = Command::new("openssl");
        make.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]);
        run(make.arg(&file))?;
        let mut public = Command::new("openssl");
        let output = public.args(["pkey", "-pubout", "-in"]).arg(&file).output();
        Ok(String::from_utf8(output.context("start openssl")?.stdout)?)
    }

    /// Signs a copy for the repository `name`.
    ///
    /// # Errors
    /// When the builder fails.
    pub fn sign(&self, version: &str, key: &str, name: &str) -> Result<()> {
        let key = self.out.join(key);
        run(self.builder().args(["sign", version, "--as", name, "--key"]).arg(key))
    }

    /// Pushes a copy.
    ///
    /// # Errors
    /// When the builder fails.
    pub fn push(&self, version: &str, port: u16) -> Result<()> {
        run(self.builder().args(["push", version, "--registry", &format!("127.0.0.1:{port}")]))
    }

    /// Packs a copy into a file.
    ///
    /// # Errors
    /// When the builder fails.
    pub fn archive(&self, version: &str) -> Result<PathBuf> {
        run(self.builder().args(["archive", "--bare", version]))?;
        Ok(self.out.join(format!("os-{version}.oci.tar")))
    }

    fn builder(&self) -> Command {
        let mut builder = Command::new(&self.builder);
        builder.arg("--out").arg(&self.out);
        builder
    }
}
