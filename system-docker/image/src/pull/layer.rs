//! One layer of a pull: fetched, checked, unpacked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ros_api::Digest;

use super::partial::Partial;
use super::pieces::{self, Pieces};
use super::stream::{blocking, receive};
use super::way::{Wanted, Way, cut_off};
use super::{Progress, PullEvent};
use crate::layer::rebuild::{Rebuilt, len};
use crate::manifest::Descriptor;
use crate::registry::Endpoint;
use crate::{Error, Result, Store};

/// Times a blob is tried again without a byte more having come.
const RETRIES: u32 = 4;
/// Progress is told about that often, in bytes.
const STEP: u64 = 512 << 10;

/// One layer of a pull.
pub(super) struct Layer<'a> {
    pub store: &'a Store,
    pub endpoint: &'a Endpoint,
    pub blob: &'a Descriptor,
    pub diff_id: &'a Digest,
    pub progress: &'a Progress,
}

/// When to try again.
struct Tries(u32);

impl Tries {
    /// Waits, or answers the error when it is not worth it. `more`: something came since the last time.
    async fn again(&mut self, error: Error, more: bool, blob: &Digest) -> Result<()> {
        self.0 = if more { 1 } else { self.0 + 1 };
        if self.0 > RETRIES || !matches!(error, Error::Network { .. }) {
            return Err(error);
        }
        tracing::info!(error = %error, layer = %blob, "fetching again");
        tokio::time::sleep(Duration::from_millis(250 << self.0)).await;
        Ok(())
    }
}

impl Layer<'_> {
    /// Makes the layer be here; how many bytes were fetched for it.
    pub async fn bring(&self, way: &Way) -> Result<u64> {
        let layer = self.blob.digest;
        let (store, diff_id, blob) = (self.store.clone(), *self.diff_id, self.blob.clone());
        let opened = match self.store.has_layer(self.diff_id) {
            true => None,
            false => blocking(move || Partial::open(&store, &blob, &diff_id)).await?,
        };
        let Some(partial) = opened else {
            pieces::forget(self.store, &layer);
            (self.progress)(PullEvent::Exists { layer });
            return Ok(0);
        };
        let mut fetched = 0;
        let came = match way {
            Way::Parts(wanted) => self.by_parts(wanted, &mut fetched).await?,
            Way::Whole => false,
        };
        if came {
            partial.remove()?;
        } else {
            let (partial, whole) = self.download(partial).await?;
            fetched += whole;
            (self.progress)(PullEvent::Downloaded { layer });
            self.extract(partial).await?;
        }
        pieces::forget(self.store, &layer);
        (self.progress)(PullEvent::Complete { layer });
        Ok(fetched)
    }

    /// The layer from parts of the blob; false when that is not to be had, and the whole blob may be.
    async fn by_parts(&self, wanted: &Wanted, fetched: &mut u64) -> Result<bool> {
        let (store, layer) = (self.store.clone(), self.blob.digest);
        let mut ranges = vec![wanted.skeleton()];
        ranges.extend(wanted.survey.needed.iter().cloned());
        let pieces = blocking(move || Pieces::open(&store, &layer, true)).await?;
        let total = wanted.total();
        let mut told = 0;
        let tell = |left: u64| {
            let done = total.saturating_sub(left);
            if done >= told + STEP {
                told = done;
                (self.progress)(PullEvent::Downloading { layer, done, total });
            }
        };
        let rebuilt = match self.fetch(pieces, &ranges, fetched, tell).await {
            Ok(pieces) => {
                (self.progress)(PullEvent::Downloaded { layer });
                self.rebuild(wanted.clone(), pieces).await
            }
            Err(error) if cut_off(&error) => return Err(error),
            Err(error) => Err(error),
        };
        match rebuilt {
            Ok(()) => Ok(true),
            Err(error @ (Error::Io { .. } | Error::NoSpace { .. })) => Err(error),
            Err(error) => {
                self.whole_because(&error);
                Ok(false)
            }
        }
    }

    /// Fetches what is not here of `wanted`, and adds to `fetched`. `tell` is told how many bytes are missing.
    pub async fn fetch(
        &self,
        mut pieces: Pieces,
        wanted: &[Range<u64>],
        fetched: &mut u64,
        mut tell: impl FnMut(u64),
    ) -> Result<Pieces> {
        let mut tries = Tries(0);
        loop {
            let missing = pieces.parts.missing(wanted);
            let left: u64 = missing.iter().map(len).sum();
            tell(left);
            let Some(range) = missing.into_iter().next() else { return Ok(pieces) };
            let failed;
            (pieces, failed) = self.fetch_range(pieces, range, |done| tell(left - done)).await?;
            let after: u64 = pieces.parts.missing(wanted).iter().map(len).sum();
            *fetched += left - after;
            match failed {
                None if after < left => {}
                None => return Err(self.endpoint.odd("a range of a blob is empty")),
                Some(error) if cut_off(&error) => {
                    tries.again(error, after < left, &self.blob.digest).await?;
                }
                Some(error) => return Err(error),
            }
        }
    }

    /// Fetches a range, or its beginning; the error that ended it early, if any.
    async fn fetch_range(
        &self,
        pieces: Pieces,
        range: Range<u64>,
        mut tell: impl FnMut(u64),
    ) -> Result<(Pieces, Option<Error>)> {
        let incoming = match self.endpoint.range(&self.blob.digest, &range).await {
            Ok(incoming) => incoming,
            Err(error) => return Ok((pieces, Some(error))),
        };
        let most = len(&range);
        let mut pieces = pieces;
        pieces = blocking(move || pieces.begin(range).map(|()| pieces)).await?;
        let tell = |done: u64| tell(done.min(most));
        let (mut pieces, failed) = receive(self.endpoint, incoming, pieces, most, tell).await?;
        blocking(move || pieces.finish().map(|()| (pieces, failed))).await
    }

    /// Unpacks the layer from what is here and what was fetched.
    async fn rebuild(&self, wanted: Wanted, pieces: Pieces) -> Result<()> {
        let (store, progress) = (self.store.clone(), Arc::clone(self.progress));
        let (layer, size, diff_id) = (self.blob.digest, self.blob.size, *self.diff_id);
        blocking(move || {
            let total = wanted.survey.tar_size;
            let mut tell = extracting(&progress, layer, total);
            let packed = pieces.content(&wanted.skeleton())?.unwrap_or_default();
            let stream = Rebuilt::new(&store, &packed, &pieces.file, &pieces.parts);
            let stream = stream
                .map_err(|e| Error::BadLayer { layer: diff_id.short(), why: e.to_string() })?;
            let imported = store.import_layer(stream, size, Some(&diff_id), &mut tell);
            if matches!(imported, Err(Error::BadLayer { .. } | Error::DigestMismatch { .. })) {
                pieces.remove()?;
            }
            imported.map(|_| ())
        })
        .await
    }

    async fn download(&self, mut partial: Partial) -> Result<(Partial, u64)> {
        let (mut tries, mut fetched) = (Tries(0), 0);
        while partial.length < self.blob.size {
            let before = partial.length;
            let failed;
            (partial, failed) = self.continue_download(partial).await?;
            fetched += partial.length.saturating_sub(before);
            let Some(error) = failed else { break };
            tries.again(error, partial.length > before, &self.blob.digest).await?;
        }
        let expected = self.blob.digest;
        blocking(move || partial.check(&expected)).await.map(|partial| (partial, fetched))
    }

    /// Fetches on from where the partial blob ends; the error that ended it early, if any.
    async fn continue_download(&self, partial: Partial) -> Result<(Partial, Option<Error>)> {
        let incoming = match self.endpoint.blob(&self.blob.digest, partial.length).await {
            Ok(incoming) => incoming,
            Err(error) => return Ok((partial, Some(error))),
        };
        let mut partial = partial;
        if !incoming.resumed {
            partial = blocking(move || partial.clear().map(|()| partial)).await?;
        }
        let (layer, total, offset) = (self.blob.digest, self.blob.size, partial.length);
        let mut told = offset;
        let tell = |more: u64| {
            let done = offset + more;
            if done >= told + STEP {
                told = done;
                (self.progress)(PullEvent::Downloading { layer, done, total });
            }
        };
        receive(self.endpoint, incoming.stream, partial, u64::MAX, tell).await
    }

    async fn extract(&self, partial: Partial) -> Result<()> {
        let (store, progress) = (self.store.clone(), Arc::clone(self.progress));
        let (layer, total, diff_id) = (self.blob.digest, self.blob.size, *self.diff_id);
        blocking(move || {
            let mut partial = partial;
            partial.rewind()?;
            let mut tell = extracting(&progress, layer, total);
            let imported = store.import_layer(&mut partial.file, total, Some(&diff_id), &mut tell);
            // Also when it was refused: it will not become better.
            if !matches!(imported, Err(Error::NoSpace { .. } | Error::Io { .. })) {
                partial.remove()?;
            }
            imported.map(|_| ())
        })
        .await
    }
}

/// Tells how far a layer is unpacked.
fn extracting(progress: &Progress, layer: Digest, total: u64) -> impl FnMut(u64) + use<> {
    let progress = Arc::clone(progress);
    let mut told = 0;
    move |done: u64| {
        if done >= told + STEP {
            told = done;
            progress(PullEvent::Extracting { layer, done, total });
        }
    }
}
