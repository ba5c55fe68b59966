//! The bill of materials of an image: SPDX 2.3 JSON, one package for each Debian package that a file is from,
//! with the licences that its copyright file names where that is machine-readable (Debian's DEP-5).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ros_api::Digest;
use serde_json::{Value, json};

use crate::EPOCH_TEXT;
use crate::debian::package::Package;
use crate::debian::pool::Pool;
use crate::tree::Kind;

/// A component that is not from Debian.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SPDX expression.
    pub licence: &'static str,
}

/// The document for `name`.
///
/// # Errors
/// When a package cannot be read.
pub fn document(
    name: &str,
    pool: &Pool,
    packages: &BTreeSet<String>,
    own: &[Own],
) -> Result<Vec<u8>> {
    let mut list: Vec<Value> = own.iter().map(own_package).collect();
    let mut references = BTreeMap::new();
    for package in packages {
        list.push(debian_package(pool, pool.package(package)?, &mut references)?);
    }
    let describes: Vec<Value> = list
        .iter()
        .map(|package| {
            json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": package["SPDXID"]})
        })
        .collect();
    let extracted: Vec<Value> = references
        .into_iter()
        .map(|(id, name): (String, String)| {
            json!({"licenseId": id, "name": name, "extractedText": format!("The licence that Debian's copyright file calls {name}.")})
        })
        .collect();
    let digest = Digest::of(&serde_json::to_vec(&list)?);
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:ros:sbom:{name}:{}", digest.hex()),
        "creationInfo": {"created": EPOCH_TEXT, "creators": ["Tool: os-images"]},
        "packages": list,
        "relationships": describes,
        "hasExtractedLicensingInfos": extracted,
    });
    Ok(serde_json::to_vec(&document)?)
}

/// The same packages in the words of the label `ros_api::labels::PACKAGES`.
///
/// # Errors
/// When a package cannot be read.
pub fn list(pool: &Pool, packages: &BTreeSet<String>) -> Result<String> {
    let one = |name: &String| Ok(format!("{name}={}", pool.package(name)?.version));
    Ok(packages.iter().map(one).collect::<Result<Vec<_>>>()?.join(" "))
}

fn own_package(own: &Own) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-{}", identifier(&own.name)),
        "name": own.name,
        "versionInfo": own.version,
        "supplier": "Organization: ros",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": own.licence,
        "copyrightText": "NOASSERTION",
    })
}

fn debian_package(
    pool: &Pool,
    package: &Package,
    references: &mut BTreeMap<String, String>,
) -> Result<Value> {
    let locator = format!(
        "pkg:deb/debian/{}@{}?arch={}",
        package.name, package.version, package.architecture
    );
    Ok(json!({
        "SPDXID": format!("SPDXRef-deb-{}", identifier(&package.name)),
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "Organization: Debian",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "sourceInfo": format!("built from the source package {} {}", package.source, package.source_version),
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": declared(&copyright(pool, &package.name)?, references),
        "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}],
    }))
}

/// The text of a package's copyright file; empty when it is another package's.
fn copyright(pool: &Pool, name: &str) -> Result<String> {
    let entries = pool.entries(name)?;
    Ok(match entries.get(&format!("usr/share/doc/{name}/copyright")).map(|entry| &entry.kind) {
        Some(Kind::File(content)) => String::from_utf8_lossy(content).into_owned(),
        _ => String::new(),
    })
}

/// The licence expression that a copyright file declares.
fn declared(copyright: &str, references: &mut BTreeMap<String, String>) -> String {
    if !copyright.starts_with("Format:") {
        return "NOASSERTION".into();
    }
    let lines = copyright.lines().filter_map(|line| line.strip_prefix("License:"));
    let names = lines.flat_map(|line| line.split([',', ' '])).map(str::trim);
    let words = ["", "and", "or", "and/or", "with", "exception"];
    let licences: BTreeSet<String> =
        names.filter(|name| !words.contains(name)).map(|name| licence(name, references)).collect();
    if licences.is_empty() {
        return "NOASSERTION".into();
    }
    licences.into_iter().collect::<Vec<_>>().join(" AND ")
}

/// SPDX's name of a licence that Debian calls `name`.
fn licence(name: &str, references: &mut BTreeMap<String, String>) -> String {
    let (family, rest) = name.split_once('-').unwrap_or((name, ""));
    if ["GPL", "LGPL", "AGPL", "GFDL"].contains(&family)
        && rest.starts_with(|c: char| c.is_ascii_digit())
    {
        let later = rest.ends_with('+');
        let version = rest.trim_end_matches('+');
        let version =
            if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
        if version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return format!("{family}-{version}-{}", if later { "or-later" } else { "only" });
        }
    }
    let known = [
        ("Expat", "MIT"),
        ("MIT", "MIT"),
        ("ISC", "ISC"),
        ("Apache-2.0", "Apache-2.0"),
        ("Apache-2", "Apache-2.0"),
        ("BSD-2-clause", "BSD-2-Clause"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("BSD-4-clause", "BSD-4-Clause"),
        ("CC0-1.0", "CC0-1.0"),
        ("Zlib", "Zlib"),
        ("zlib", "Zlib"),
        ("BSL-1.0", "BSL-1.0"),
        ("MPL-2.0", "MPL-2.0"),
    ];
    if let Some((_, spdx)) = known.iter().find(|(debian, _)| *debian == name) {
        return (*spdx).to_owned();
    }
    let id = format!("LicenseRef-debian-{}", identifier(name));
    references.insert(id.clone(), name.to_owned());
    id
}

/// Letters, digits, `.` and `-`: what SPDX identifiers may have.
fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_spdxs_where_they_can_be() {
        let mut references = BTreeMap::new();
        let text =
            "Format: x\nLicense: GPL-2+ and Expat\n\nLicense: LGPL-2.1\n text\nLicense: odd/one\n";
        assert_eq!(
            declared(text, &mut references),
            "GPL-2.0-or-later AND LGPL-2.1-only AND LicenseRef-debian-odd-one AND MIT"
        );
        assert_eq!(references.len(), 1);
        assert_eq!(declared("free text", &mut references), "NOASSERTION");
    }
}
