//! A releases file: `current:` and `available:` names of release images, as the ancestor published them.

use anyhow::{Context, Result, bail};
use ros_api::Reference;
use serde::Deserialize;

use crate::services::cloud_init::url;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Releases {
    /// What machines should run.
    pub current: Option<String>,
    /// What they may run.
    pub available: Vec<String>,
}

impl Releases {
    fn parse(text: &str) -> Result<Self> {
        let releases: Self = serde_yaml::from_str(text)?;
        if releases.current.is_none() && releases.available.is_empty() {
            bail!("neither `current:` nor `available:` is in it");
        }
        Ok(releases)
    }

    /// Every release in it, once.
    ///
    /// # Errors
    /// When a name is none.
    pub fn references(&self) -> Result<Vec<Reference>> {
        let mut all: Vec<Reference> = Vec::new();
        for text in self.available.iter().chain(&self.current) {
            let reference: Reference = text.parse()?;
            if !all.contains(&reference) {
                all.push(reference);
            }
        }
        Ok(all)
    }
}

/// Reads the file at a path or a URL.
///
/// # Errors
/// When it cannot be read, or is none.
pub async fn read(from: &str) -> Result<Releases> {
    let text = if from.starts_with('/') {
        std::fs::read(from).with_context(|| format!("read {from}"))?
    } else {
        url::fetch(from).await?.with_context(|| format!("{from}: not found"))?
    };
    Releases::parse(&String::from_utf8_lossy(&text))
        .with_context(|| format!("releases file {from}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ancestors_format_is_read() {
        let releases =
            Releases::parse("current: h/os:v2\navailable:\n- h/os:v1\n- h/os:v2\n").unwrap();
        let names: Vec<String> =
            releases.references().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["h/os:v1", "h/os:v2"]);
        assert!(Releases::parse("latest: x\n").is_err());
        assert!(Releases::parse("- x\n").is_err());
    }
}
