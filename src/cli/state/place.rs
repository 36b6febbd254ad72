//! Where state lies: that of a pipeline file, or a directory.

use std::path::{Path, PathBuf};

use super::super::load::load;
use super::super::run::STATE_ROOT;
use super::super::{Exit, Failure, World};
use crate::config::Plan;
use crate::pipeline::Instance;

/// Which state.
#[derive(Debug, clap::Args)]
pub(super) struct PlaceArgs {
    /// The files of one pipeline, or a directory of state
    #[arg(value_name = "FILE|DIR", required_unless_present = "state_dir")]
    paths: Vec<PathBuf>,
    /// The state lies here, instead of where the file says
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// State that nobody else works on, as long as this is held.
pub(super) struct Place {
    pub(super) plan: Option<Plan>,
    pub(super) instances: Vec<Instance>,
    /// The directories of the tasks' stores.
    pub(super) stores: Vec<PathBuf>,
}

impl PlaceArgs {
    pub(super) fn resolve(&self, world: &World<'_>) -> Result<Place, Failure> {
        resolve(&self.paths, self.state_dir.as_deref(), world)
    }
}

/// Finds and locks the state meant.
pub(super) fn resolve(
    paths: &[PathBuf],
    state_dir: Option<&Path>,
    world: &World<'_>,
) -> Result<Place, Failure> {
    let dir = match (paths, state_dir) {
        ([], Some(dir)) => Some(dir),
        ([path], _) if path.is_dir() => Some(path.as_path()),
        _ => None,
    };
    if let Some(dir) = dir {
        return of_dir(dir);
    }
    let plan = load(paths, world)?.plan;
    let dir = state_dir.or(plan.state_dir.as_deref());
    let instances = Instance::take_all(Path::new(STATE_ROOT), plan.name.as_str(), dir)?;
    let stores = stores(&instances)?;
    Ok(Place {
        plan: Some(plan),
        instances,
        stores,
    })
}

fn stores(instances: &[Instance]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for instance in instances {
        found.extend(instance.stores()?);
    }
    Ok(found)
}

fn of_dir(dir: &Path) -> Result<Place, Failure> {
    if is_store(dir) {
        return Ok(Place {
            plan: None,
            instances: Vec::new(),
            stores: vec![dir.to_owned()],
        });
    }
    let instances = if dir.join("tasks").is_dir() {
        Instance::take_all(dir, "", Some(dir))?
    } else {
        // Joined with nothing, a path is itself.
        Instance::take_all(dir, "", None)?
    };
    let place = Place {
        plan: None,
        stores: stores(&instances)?,
        instances,
    };
    place.not_empty(dir)
}

fn is_store(dir: &Path) -> bool {
    let has = |name| dir.join(name).exists();
    has("identity.json") || has("sled") || has("note")
}

impl Place {
    /// Itself, unless there is nothing.
    fn not_empty(self, dir: &Path) -> Result<Self, Failure> {
        if self.stores.is_empty() {
            let message = format!("there is no state in `{}`", dir.display());
            return Err(Failure::new(Exit::Io, message)
                .help("name a pipeline file, or the directory given to `run --state-dir`"));
        }
        Ok(self)
    }
}

/// Name of a store's task: that of its directory.
pub(super) fn task_of(store: &Path) -> String {
    let name = store.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
