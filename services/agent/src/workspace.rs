//! Where a task's files are: one directory for all, one task at a time, or one for each.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use scheduler_core::{Invalid, pipeline::command::CommandTemplate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Where the commands of pipelines expect the shared volume.
pub(crate) const VOLUME: &str = "/mnt/pipe";
/// Entries of a shared directory that begin so are no task's.
const KEPT_PREFIX: &str = ".workload";

/// Where tasks have their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// In this directory, one task at a time; it is emptied after each, but for names that begin
    /// with `.workload`.
    Shared(PathBuf),
    /// Each in a directory of its own under this one, removed afterwards. Paths below `/mnt/pipe` in
    /// the pipeline's commands are moved there; values that fill placeholders stay as they are.
    PrivateUnder(PathBuf),
}

impl Default for Directory {
    /// The shared volume of a pod.
    fn default() -> Self {
        Self::Shared(VOLUME.into())
    }
}

/// Gives out directories.
#[derive(Debug)]
pub(crate) struct Workspaces {
    directory: Directory,
    /// Permits for the shared directory: one.
    shared: Arc<Semaphore>,
}

/// The right to have a directory now.
#[derive(Debug)]
pub(crate) struct Turn(Option<OwnedSemaphorePermit>);

/// The directory of one task.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    permit: Option<OwnedSemaphorePermit>,
}

impl Directory {
    /// The same place, however the process that is told its path sees it.
    fn absolute(self) -> Result<Self, Invalid> {
        let absolute = |path: PathBuf| {
            let path = std::path::absolute(path)
                .map_err(|err| Invalid::new("directory", format!("has no absolute path: {err}")))?;
            match path.to_str() {
                Some(_) => Ok(path),
                None => Err(Invalid::new("directory", "must be UTF-8")),
            }
        };
        Ok(match self {
            Self::Shared(path) => Self::Shared(absolute(path)?),
            Self::PrivateUnder(path) => Self::PrivateUnder(absolute(path)?),
        })
    }
}

impl Workspaces {
    /// # Errors
    /// A directory that commands cannot be told: executors have a working directory of their own,
    /// and arguments are text.
    pub(crate) fn new(directory: Directory) -> Result<Self, Invalid> {
        Ok(Self {
            directory: directory.absolute()?,
            shared: Arc::new(Semaphore::new(1)),
        })
    }

    /// Waits until the shared directory is free, if it is shared.
    ///
    /// # Cancel safety
    /// The turn is given up.
    pub(crate) async fn turn(&self) -> Turn {
        match &self.directory {
            // The semaphore is never closed.
            Directory::Shared(_) => Turn(Arc::clone(&self.shared).acquire_owned().await.ok()),
            Directory::PrivateUnder(_) => Turn(None),
        }
    }

    /// A directory that holds nothing of another task.
    ///
    /// # Cancel safety
    /// None: what is begun on files goes on, and would be nobody's.
    pub(crate) async fn open(&self, turn: Turn, name: &str) -> io::Result<Workspace> {
        match &self.directory {
            Directory::Shared(path) => {
                let path = path.clone();
                tokio::fs::create_dir_all(&path).await?;
                // What an earlier process left.
                empty(&path).await?;
                Ok(Workspace {
                    path,
                    permit: turn.0,
                })
            }
            Directory::PrivateUnder(root) => {
                let path = root.join(name);
                if path.exists() {
                    tokio::fs::remove_dir_all(&path).await?;
                }
                tokio::fs::create_dir_all(&path).await?;
                Ok(Workspace { path, permit: None })
            }
        }
    }
}

impl Workspace {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The command with its paths in this directory.
    pub(crate) fn place(&self, command: &CommandTemplate) -> CommandTemplate {
        let path = self.path.to_string_lossy();
        if path == VOLUME {
            return command.clone();
        }
        command.with_prefix_moved(VOLUME, &path)
    }

    /// Removes the task's files. Only then can the next task have the shared directory.
    pub(crate) async fn close(self) -> io::Result<()> {
        let closed = match &self.permit {
            Some(_) => empty(&self.path).await,
            None => tokio::fs::remove_dir_all(&self.path).await,
        };
        drop(self.permit);
        closed
    }
}

/// Removes everything in a directory that tasks have put there.
async fn empty(path: &Path) -> io::Result<()> {
    let mut entries = tokio::fs::read_dir(path).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().starts_with(KEPT_PREFIX) {
            continue;
        }
        // A link is removed and not followed.
        if entry.file_type().await?.is_dir() {
            tokio::fs::remove_dir_all(entry.path()).await?;
        } else {
            tokio::fs::remove_file(entry.path()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shared_directory_is_empty_for_the_next_task_and_for_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let workspaces = Workspaces::new(Directory::Shared(path.clone())).unwrap();
        let first = workspaces.open(workspaces.turn().await, "1").await.unwrap();
        std::fs::create_dir(path.join("a")).unwrap();
        std::fs::write(path.join("a/b"), "x").unwrap();
        std::fs::write(path.join(".workload-executor.sock"), "").unwrap();
        std::os::unix::fs::symlink(folder.path(), path.join("link")).unwrap();

        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), workspaces.turn());
        assert!(waits.await.is_err());
        first.close().await.unwrap();
        workspaces.open(workspaces.turn().await, "2").await.unwrap();
        let left: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [".workload-executor.sock"]);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_private_directory_takes_the_volumes_place_and_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let workspaces = Workspaces::new(Directory::PrivateUnder(folder.path().into())).unwrap();
        let (one, two) = (
            workspaces.open(Turn(None), "1").await.unwrap(),
            workspaces.open(Turn(None), "2").await.unwrap(),
        );
        assert_ne!(one.path(), two.path());
        let command = CommandTemplate::parse("cp /mnt/pipe/a {{b}}").unwrap();
        let data = serde_json::json!({"b": "/mnt/pipe/b"});
        let argv = one.place(&command).fill(data.as_object().unwrap()).unwrap();
        assert_eq!(argv[1], format!("{}/1/a", folder.path().display()));
        assert_eq!(argv[2], "/mnt/pipe/b");
        one.close().await.unwrap();
        assert!(!folder.path().join("1").exists() && two.path().exists());
    }

    #[test]
    fn a_directory_is_absolute_since_executors_start_elsewhere() {
        let workspaces = Workspaces::new(Directory::PrivateUnder("tasks".into())).unwrap();
        let absolute = std::env::current_dir().unwrap().join("tasks");
        assert_eq!(workspaces.directory, Directory::PrivateUnder(absolute));
        assert!(Workspaces::new(Directory::Shared("".into())).is_err());
    }
}
