//! How a layer comes here: as a whole, or, where its blob has a skeleton (`ros_api::skeleton`) and the registry answers
//! ranges, only those frames of it that have something new (decision 20).
//!
//! Planning and pulling decide in the same way, each for all layers of an image before any of them comes in. What planning
//! decided, pulling in the same process holds to, although other images brought some of it meanwhile: bytes predicted
//! are bytes fetched. Whatever is odd about the skeleton or the registry means the whole layer, and a line in the log.

use std::fs;
use std::ops::Range;

use oci_client::errors::OciDistributionError;
use ros_api::Digest;
use ros_api::skeleton::{ANNOTATION, Place};

use super::layer::Layer;
use super::partial;
use super::pieces::Pieces;
use super::stream::blocking;
use crate::layer::rebuild::{self, Survey, len};
use crate::{Error, Result, Store};

/// How much more than its blob a whole layer takes while it comes in: blob and files are there together.
const UNPACKED: u64 = 4;
/// Decisions of planning that are kept at most.
const REMEMBERED: usize = 1000;

/// How a layer comes here.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The whole blob.
    Whole,
    /// Parts of it.
    Parts(Wanted),
}

/// What is fetched of a blob besides the skeleton.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub place: Place,
    pub survey: Survey,
}

impl Wanted {
    /// Where the skeleton is.
    pub fn skeleton(&self) -> Range<u64> {
        range(&self.place)
    }

    /// Bytes in all, with the skeleton.
    pub fn total(&self) -> u64 {
        self.place.length + self.survey.needed.iter().map(len).sum::<u64>()
    }
}

pub(super) fn range(place: &Place) -> Range<u64> {
    place.offset..place.offset + place.length
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Plan,
    Pull,
}

/// A way, and what it takes.
#[derive(Clone, Debug)]
pub(super) struct Decided {
    pub way: Way,
    /// Bytes that were fetched to decide it, and that no pull has counted.
    pub fetched: u64,
    /// Bytes that are still to come.
    pub left: u64,
    /// Bytes that the store takes for it at most, while it comes in.
    pub room: u64,
}

impl Layer<'_> {
    /// Decides how the layer comes here.
    pub(super) async fn decide(&self, by: By) -> Result<Decided> {
        let here = self.store.has_layer(self.diff_id);
        let whole = self.blob.size - partial::fetched(self.store, self.blob);
        let room = self.blob.size.saturating_mul(UNPACKED);
        let mut decided = Decided { way: Way::Whole, fetched: 0, left: whole, room };
        let planned = match by {
            By::Plan => None,
            By::Pull => self.store.ways().remove(&self.blob.digest),
        };
        let usable = !self.endpoint.ignores_ranges() && !matches!(planned, Some(Way::Whole));
        let place = self.place().filter(|_| usable && !here);
        match place {
            Some(place) => match self.survey(by, place, planned.as_ref(), &mut decided).await {
                Ok(()) => {}
                Err(error @ (Error::Io { .. } | Error::NoSpace { .. })) => return Err(error),
                Err(error) if cut_off(&error) => return Err(error),
                Err(error) => self.whole_because(&error),
            },
            None if by == By::Pull => decided.fetched = self.count_pieces().await?,
            None => {}
        }
        if by == By::Plan {
            decided.left += self.untold().await?;
            self.remember(decided.way.clone());
        }
        Ok(decided)
    }

    /// Until a pull asks. What nobody came for goes when there is too much of it.
    fn remember(&self, way: Way) {
        let mut ways = self.store.ways();
        if ways.len() >= REMEMBERED {
            ways.clear();
        }
        ways.insert(self.blob.digest, way);
    }

    /// Where the skeleton of the blob is, when it can be of use.
    fn place(&self) -> Option<Place> {
        let text = self.blob.annotations.get(ANNOTATION)?;
        rebuild::place(text, self.blob.size).filter(|_| has_objects(self.store))
    }

    /// Fetches the skeleton and looks what is here; the way is by parts when that is less.
    async fn survey(
        &self,
        by: By,
        place: Place,
        planned: Option<&Way>,
        decided: &mut Decided,
    ) -> Result<()> {
        let (store, blob) = (self.store.clone(), self.blob.digest);
        let opened = blocking(move || match by {
            By::Pull => Pieces::open(&store, &blob, true).map(Some),
            By::Plan => Pieces::try_open(&store, &blob, false),
        });
        let pieces = match opened.await? {
            Some(pieces) => {
                let mut came = 0;
                let pieces = self.fetch(pieces, &[range(&place)], &mut came, |_| ()).await;
                decided.fetched += if by == By::Pull { came } else { 0 };
                pieces?
            }
            // It is being pulled just now.
            None => {
                let store = self.store.clone();
                blocking(move || Pieces::look(&store, &blob)).await?
            }
        };
        let store = self.store.clone();
        let (pieces, told, survey) = blocking(move || {
            let mut pieces = pieces;
            let told = if by == By::Pull { pieces.tell()? } else { 0 };
            let survey = look(&store, &pieces, &place);
            if survey.is_err() && by == By::Pull {
                pieces.remove()?;
            }
            Ok((pieces, told, survey))
        })
        .await?;
        decided.fetched += told;
        weigh(Wanted { place, survey: survey? }, &pieces, planned, decided);
        Ok(())
    }

    /// Bytes of planning's own that no pull has counted.
    async fn untold(&self) -> Result<u64> {
        let (store, blob) = (self.store.clone(), self.blob.digest);
        blocking(move || Ok(Pieces::look(&store, &blob).map_or(0, |pieces| pieces.untold))).await
    }

    /// What planning fetched counts, although it is of no use now.
    async fn count_pieces(&self) -> Result<u64> {
        if !self.blob.annotations.contains_key(ANNOTATION) {
            return Ok(0);
        }
        let (store, blob) = (self.store.clone(), self.blob.digest);
        blocking(move || match Pieces::look(&store, &blob) {
            Ok(_) => Pieces::open(&store, &blob, true)?.tell(),
            Err(_) => Ok(0),
        })
        .await
    }

    pub(super) fn whole_because(&self, error: &Error) {
        let why = super::chain(error);
        tracing::info!(layer = %self.blob.digest, why, "the whole layer is fetched");
    }
}

/// The way is by parts when less is to come then.
fn weigh(mut wanted: Wanted, pieces: &Pieces, planned: Option<&Way>, decided: &mut Decided) {
    if let Some(Way::Parts(before)) = planned
        && covers(&before.survey.needed, &wanted.survey.needed)
    {
        wanted.survey.needed.clone_from(&before.survey.needed);
    }
    let left: u64 = pieces.parts.missing(&wanted.survey.needed).iter().map(len).sum();
    if left >= decided.left {
        return;
    }
    let Survey { fresh, largest, raw, .. } = wanted.survey;
    // Folders and lists of a tree take about what its headers do.
    let tree = raw.saturating_mul(2);
    decided.room =
        wanted.total().saturating_add(fresh).saturating_add(largest).saturating_add(tree);
    (decided.left, decided.way) = (left, Way::Parts(wanted));
}

/// The skeleton as it is here, checked, and what it says.
fn look(store: &Store, pieces: &Pieces, place: &Place) -> Result<Survey> {
    let packed = pieces.content(&range(place))?;
    let packed = packed.ok_or_else(|| bad(place, "it is not here"))?;
    let found = Digest::of(&packed);
    if found != place.digest {
        return Err(Error::DigestMismatch {
            what: "skeleton".into(),
            expected: place.digest,
            found,
        });
    }
    rebuild::survey(store, &packed, place).map_err(|e| bad(place, &e.to_string()))
}

fn bad(place: &Place, why: &str) -> Error {
    Error::BadLayer { layer: format!("skeleton {}", place.digest.short()), why: why.to_owned() }
}

/// Whether each of `inner` is within one of `outer`.
fn covers(outer: &[Range<u64>], inner: &[Range<u64>]) -> bool {
    let within = |one: &Range<u64>| outer.iter().any(|o| o.start <= one.start && one.end <= o.end);
    inner.iter().all(within)
}

/// Nothing can be here already where there is no file at all.
fn has_objects(store: &Store) -> bool {
    fs::read_dir(store.path("objects")).is_ok_and(|mut entries| entries.next().is_some())
}

/// The line broke: the whole layer would not come either.
pub(super) fn cut_off(error: &Error) -> bool {
    use OciDistributionError as E;
    match error {
        Error::Network { source: E::RequestError(_) | E::IoError(_), .. } => true,
        Error::Network { source: E::ServerError { code, .. }, .. } => *code >= 500,
        _ => false,
    }
}
