//! Fetches a release's images through the daemon: by digest, each only as far as it is not here.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bollard::models::CreateImageInfo;
use bollard::query_parameters::TagImageOptionsBuilder;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ros_api::Reference;

use super::daemon;
use crate::services::engine::Engine;

/// Bars on a terminal, lines elsewhere, all on stderr.
pub struct Fetch<'a> {
    engine: &'a Engine,
    bars: MultiProgress,
    on_terminal: bool,
    bytes: Option<u64>,
}

impl<'a> Fetch<'a> {
    /// Fetches through `engine`.
    #[must_use]
    pub fn new(engine: &'a Engine) -> Self {
        let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { engine, bars: MultiProgress::new(), on_terminal, bytes: Some(0) }
    }

    /// Fetches the image `name` (by digest).
    ///
    /// # Errors
    /// When it cannot be fetched; what came of it stays for the next try.
    pub async fn image(&mut self, name: &Reference) -> Result<()> {
        let mut layers = BTreeMap::new();
        let pulled = daemon::pull(name, |line| {
            if self.on_terminal {
                self.show(&mut layers, name, &line.step);
            }
        });
        let fetched = pulled.await.with_context(|| format!("fetch {}", name.repository))?;
        self.bytes = self.bytes.zip(fetched).map(|(all, more)| all + more);
        layers.into_values().for_each(|bar: ProgressBar| bar.finish_and_clear());
        if !self.on_terminal {
            eprintln!("fetched {}", name.repository);
        }
        Ok(())
    }

    /// Bytes of configs and layers that were fetched; none when the daemon did not say.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    fn show(
        &self,
        layers: &mut BTreeMap<String, ProgressBar>,
        name: &Reference,
        step: &CreateImageInfo,
    ) {
        let (Some(id), Some(status)) = (&step.id, &step.status) else { return };
        let Some((done, total)) =
            step.progress_detail.as_ref().and_then(|p| Some((p.current?, p.total?)))
        else {
            return;
        };
        let bar = layers.entry(id.clone()).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{msg:32} {wide_bar} {bytes:>10}/{total_bytes:10}");
            self.bars
                .add(ProgressBar::new(0))
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_message(format!("{} {}", name.repository, status.to_lowercase()));
        bar.set_length(u64::try_from(total).unwrap_or(0));
        bar.set_position(u64::try_from(done).unwrap_or(0));
    }

    /// Gives an image that was fetched by digest its tag, for people.
    ///
    /// # Errors
    /// When the daemon refuses.
    pub async fn tag(&self, name: &Reference, as_name: &Reference) -> Result<()> {
        let Some(tag) = &as_name.tag else { return Ok(()) };
        let repository = as_name.name();
        let options = TagImageOptionsBuilder::default().repo(&repository).tag(tag).build();
        self.engine
            .docker()
            .tag_image(&name.to_string(), Some(options))
            .await
            .with_context(|| format!("tag {as_name}"))
    }
}
