//! Doors for the fuzz targets in `system-docker/fuzz`; built with `cfg(fuzzing)` only.

use std::collections::HashMap;

use axum::body::Bytes;
use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, ContainerUpdateBody, ExecConfig, ExecStartConfig,
    NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest,
};

use crate::engine::attach::detach_keys;
use crate::engine::filters::Filters;
use crate::engine::list::FILTERS;
use crate::engine::{create, logs, time};
use crate::http;

/// A request: the first byte says of which kind, a line is its query, the rest its body.
pub fn request(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (query, body) = rest.split_at(rest.iter().position(|&byte| byte == b'\n').unwrap_or(0));
    let bytes = Bytes::copy_from_slice(body);
    match kind % 8 {
        0 => drop(http::body::<ContainerCreateBody>(&bytes).map(|body| create::fuzz(&body))),
        1 => drop(http::body::<ExecConfig>(&bytes)),
        2 => drop(http::body::<ExecStartConfig>(&bytes)),
        3 => drop(http::body::<NetworkCreateRequest>(&bytes)),
        4 => drop(http::body::<NetworkConnectRequest>(&bytes)),
        5 => drop(http::body::<VolumeCreateRequest>(&bytes)),
        6 => drop(http::body::<ContainerUpdateBody>(&bytes)),
        _ => drop(http::body::<Option<ContainerConfig>>(&bytes)),
    }
    if let Ok(text) = std::str::from_utf8(query) {
        self::query(text);
    }
}

fn query(text: &str) {
    let _ = http::cut_version(text);
    let _ = http::repeated(Some(text), "names");
    let _ = detach_keys(text);
    if let Some(moment) = time::parse(text) {
        let shown = time::rfc3339(moment);
        assert_eq!(time::parse(&shown).unwrap_or(0), moment, "{shown}");
    }
    if let Ok(filters) = Filters::parse(text, &FILTERS) {
        let _ = (filters.until(), filters.labels(&HashMap::new()));
        let _ = filters.patterns("name").map(|patterns| patterns.any(text));
        let _ = filters.globs("label").map(|globs| globs.any(text));
        let _ = filters.ports("publish");
    }
}

/// Lines of a container's log, in two pieces.
pub fn log(data: &[u8]) {
    logs::fuzz(data);
}
