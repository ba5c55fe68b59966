//! Fetches a release's images through the daemon: by digest, each only as far as it is not here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder};
use futures_util::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ros_api::Reference;

use crate::services::engine::Engine;

/// Bars on a terminal, lines elsewhere, all on stderr.
pub struct Fetch<'a> {
    engine: &'a Engine,
    bars: MultiProgress,
    on_terminal: bool,
}

impl<'a> Fetch<'a> {
    /// Fetches through `engine`.
    #[must_use]
    pub fn new(engine: &'a Engine) -> Self {
        let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { engine, bars: MultiProgress::new(), on_terminal }
    }

    /// Fetches the image `name` (by digest).
    ///
    /// # Errors
    /// When it cannot be fetched; what came of it stays for the next try.
    pub async fn image(&self, name: &Reference) -> Result<()> {
        let text = name.to_string();
        let options = CreateImageOptionsBuilder::default().from_image(&text).build();
        let mut steps =
            std::pin::pin!(self.engine.docker().create_image(Some(options), None, None));
        let mut layers = BTreeMap::new();
        while let Some(step) = steps.next().await {
            let step = step.with_context(|| format!("fetch {}", name.repository))?;
            if let Some(error) = step.error_detail.as_ref().and_then(|error| error.message.as_ref())
            {
                bail!("fetch {}: {error}", name.repository);
            }
            if self.on_terminal {
                self.show(&mut layers, name, &step);
            }
        }
        layers.into_values().for_each(|bar: ProgressBar| bar.finish_and_clear());
        if !self.on_terminal {
            eprintln!("fetched {}", name.repository);
        }
        Ok(())
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
