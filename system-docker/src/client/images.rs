//! `images`, `pull`, `tag`, `rmi`, `load`, `save`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bollard::Docker;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptions, ListImagesOptionsBuilder,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::StreamExt;
use tokio_util::io::ReaderStream;

use super::table::{print, short, size, table};

#[derive(clap::Args)]
pub struct Images {
    /// Only ids.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(clap::Args)]
pub struct Named {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
}

#[derive(clap::Args)]
pub struct Tag {
    /// An image.
    image: String,
    /// One more name for it.
    name: String,
}

#[derive(clap::Args)]
pub struct Remove {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
    /// Also one with several names.
    #[arg(short, long)]
    force: bool,
}

#[derive(clap::Args)]
pub struct Load {
    /// The archive; standard input when none is named.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Save {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
    /// The archive; standard output when none is named.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn list(docker: &Docker, args: Images) -> Result<ExitCode> {
    let images = docker.list_images(Some(ListImagesOptionsBuilder::default().build())).await?;
    if args.quiet {
        print(&images.iter().map(|image| short(&image.id) + "\n").collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for image in images {
        let named = if image.repo_tags.is_empty() {
            vec!["<none>:<none>".to_owned()]
        } else {
            image.repo_tags
        };
        for name in named {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, ""));
            rows.push(vec![
                repository.to_owned(),
                tag.to_owned(),
                short(&image.id),
                size(image.size),
            ]);
        }
    }
    print(&table(&["REPOSITORY", "TAG", "IMAGE ID", "SIZE"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn pull(docker: &Docker, names: &[String]) -> Result<ExitCode> {
    for name in names {
        fetch(docker, name).await?;
        print(&format!("{name}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Pulls, telling what it does on stderr: one line for each step of a layer, not for each byte.
pub async fn fetch(docker: &Docker, name: &str) -> Result<()> {
    let options = CreateImageOptionsBuilder::default().from_image(name).build();
    let mut steps = std::pin::pin!(docker.create_image(Some(options), None, None));
    while let Some(step) = steps.next().await {
        let step = step.with_context(|| format!("pull {name}"))?;
        if let Some(error) = step.error_detail.and_then(|error| error.message) {
            bail!("pull {name}: {error}");
        }
        let counted =
            step.progress_detail.as_ref().is_some_and(|progress| progress.total.is_some());
        if let Some(status) = step.status.filter(|_| !counted) {
            eprintln!("{}{status}", step.id.map(|id| id + ": ").unwrap_or_default());
        }
    }
    Ok(())
}

pub async fn tag(docker: &Docker, args: Tag) -> Result<ExitCode> {
    let (repository, tag) = match args.name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (args.name.as_str(), "latest"),
    };
    let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
    docker.tag_image(&args.image, Some(options)).await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn remove(docker: &Docker, args: Remove) -> Result<ExitCode> {
    let options = RemoveImageOptionsBuilder::default().force(args.force).build();
    for name in &args.names {
        for done in docker.remove_image(name, Some(options.clone()), None).await? {
            let untagged = done.untagged.map(|name| format!("Untagged: {name}\n"));
            let deleted = done.deleted.map(|id| format!("Deleted: {id}\n"));
            print(&[untagged, deleted].into_iter().flatten().collect::<String>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn load(docker: &Docker, args: Load) -> Result<ExitCode> {
    let body = match &args.input {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .with_context(|| format!("open {}", path.display()))?;
            bollard::body_try_stream(ReaderStream::new(file))
        }
        None => bollard::body_try_stream(ReaderStream::new(tokio::fs::File::from_std(
            std::fs::File::open("/dev/stdin")?,
        ))),
    };
    let mut steps = std::pin::pin!(docker.import_image(ImportImageOptions::default(), body, None));
    while let Some(step) = steps.next().await {
        let step = step?;
        if let Some(error) = step.error_detail.and_then(|error| error.message) {
            bail!("load: {error}");
        }
        print(&step.stream.unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn save(docker: &Docker, args: Save) -> Result<ExitCode> {
    let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
    let mut to: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(
            std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?,
        ),
        None => Box::new(std::io::stdout()),
    };
    let mut chunks = std::pin::pin!(docker.export_images(&names));
    while let Some(chunk) = chunks.next().await {
        to.write_all(&chunk?).context("write the archive")?;
    }
    to.flush()?;
    Ok(ExitCode::SUCCESS)
}
