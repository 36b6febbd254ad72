//! Where state lies: that of a pipeline file, or a directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tidemill_state::{Epoch, read_note};

use super::super::load::load;
use super::super::{Exit, Failure, World};
use super::copied::{copy_unless_writable, held_unless_writable, stores_below};
use super::owner;
use crate::config::Plan;
use crate::config::plan::STATE_ROOT;
use crate::pipeline::Instance;

/// Which state.
#[derive(Debug, clap::Args)]
pub(super) struct PlaceArgs {
    /// The files of one pipeline, or a directory of state
    #[arg(value_name = "FILE|DIR", required_unless_present = "state_dir")]
    paths: Vec<PathBuf>,
    /// The state lies here [default: where the file says, else .tidemill/PIPELINE]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// State that nobody else works on, as long as this is held.
pub(super) struct Place {
    pub(super) plan: Option<Plan>,
    pub(super) instances: Vec<Instance>,
    /// The tasks' stores.
    pub(super) stores: Vec<Store>,
    // Where the stores are copies: removed when it is dropped.
    _copies: Option<TempDir>,
    // What keeps owners away from stores that cannot be locked where they are.
    _held: Vec<File>,
}

/// The store of a task.
pub(super) struct Store {
    /// Where it is opened.
    pub(super) dir: PathBuf,
    /// Where it lies: the same, unless that cannot be written.
    pub(super) at: PathBuf,
    /// Whether the store of another instance has come further with the same task: then this one is
    /// older than the log.
    pub(super) behind: bool,
}

impl Store {
    pub(super) fn new(dir: PathBuf, at: PathBuf) -> Self {
        Self {
            dir,
            at,
            behind: false,
        }
    }

    /// The directory of the instance.
    pub(super) fn instance(&self) -> String {
        let instance = self.at.parent().and_then(Path::parent);
        instance.unwrap_or(&self.at).display().to_string()
    }
}

/// What is going to be done with state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Only named: their owner may be at work, and nothing need be writable.
    List,
    /// Looked at: on a disk that cannot be written, in a copy.
    Look,
    /// Told how it would be changed: on a disk that cannot be written, where it is.
    DryRun,
    /// Changed.
    Change,
}

impl PlaceArgs {
    pub(super) fn resolve(
        &self,
        access: Access,
        verb: &str,
        world: &World<'_>,
    ) -> Result<Place, Failure> {
        resolve(&self.paths, self.state_dir.as_deref(), access, verb, world)
    }
}

/// Finds and locks the state meant. `verb` is told to whoever wants it meanwhile.
pub(super) fn resolve(
    paths: &[PathBuf],
    state_dir: Option<&Path>,
    access: Access,
    verb: &str,
    world: &World<'_>,
) -> Result<Place, Failure> {
    let mut place = find(paths, state_dir, access, verb, world)?;
    mark_behind(&mut place.stores);
    Ok(place)
}

/// Compares how far the stores of a task have come.
fn mark_behind(stores: &mut [Store]) {
    let mut newest: BTreeMap<String, Option<Epoch>> = BTreeMap::new();
    let mut come = Vec::with_capacity(stores.len());
    for store in &*stores {
        // Of a note that cannot be read, whoever looks at the store tells.
        let note = read_note(&store.dir).ok().flatten();
        let found = note.and_then(|note| note.newest);
        let most = newest.entry(task_of(&store.dir)).or_default();
        *most = (*most).max(found);
        come.push(found);
    }
    for (store, come) in stores.iter_mut().zip(come) {
        store.behind = newest.get(&task_of(&store.dir)) > Some(&come);
    }
}

fn find(
    paths: &[PathBuf],
    state_dir: Option<&Path>,
    access: Access,
    verb: &str,
    world: &World<'_>,
) -> Result<Place, Failure> {
    let dir = match (paths, state_dir) {
        ([], Some(dir)) => Some(dir),
        ([path], _) if path.is_dir() => Some(path.as_path()),
        _ => None,
    };
    if let Some(dir) = dir {
        return match unlocked(dir, access, None)? {
            Some(place) => place.not_empty(dir),
            None => of_dir(dir, verb),
        };
    }
    let plan = load(paths, world)?.plan;
    let dir = state_dir.or(plan.state_dir.as_deref());
    let root = Path::new(STATE_ROOT);
    let of_plan = root.join(plan.name.as_str());
    if let Some(place) = unlocked(dir.unwrap_or(&of_plan), access, Some(&plan))? {
        return Ok(place);
    }
    let instances = Instance::take_all(root, plan.name.as_str(), dir, &owner(verb))?;
    let stores = stores(&instances)?;
    Ok(Place {
        plan: Some(plan),
        instances,
        stores,
        _copies: None,
        _held: Vec::new(),
    })
}

/// What needs no lock: what is only named, and copies of what is only looked at and cannot be written
/// where it is.
fn unlocked(dir: &Path, access: Access, plan: Option<&Plan>) -> Result<Option<Place>, Failure> {
    let all_in_place = |found: Vec<PathBuf>| found.into_iter().map(in_place).collect();
    let (copies, held, stores) = match access {
        Access::Change => return Ok(None),
        Access::List => (None, Vec::new(), all_in_place(stores_below(dir)?)),
        Access::Look => match copy_unless_writable(dir)? {
            Some((copies, stores)) => (Some(copies), Vec::new(), stores),
            None => return Ok(None),
        },
        Access::DryRun => match held_unless_writable(dir)? {
            Some((found, held)) => (None, held, all_in_place(found)),
            None => return Ok(None),
        },
    };
    Ok(Some(Place {
        plan: plan.cloned(),
        instances: Vec::new(),
        stores,
        _copies: copies,
        _held: held,
    }))
}

fn stores(instances: &[Instance]) -> Result<Vec<Store>, Failure> {
    let mut found = Vec::new();
    for instance in instances {
        found.extend(instance.stores()?.into_iter().map(in_place));
    }
    Ok(found)
}

fn in_place(dir: PathBuf) -> Store {
    Store::new(dir.clone(), dir)
}

fn of_dir(dir: &Path, verb: &str) -> Result<Place, Failure> {
    if is_store(dir) {
        return Ok(Place {
            plan: None,
            instances: Vec::new(),
            stores: vec![in_place(dir.to_owned())],
            _copies: None,
            _held: Vec::new(),
        });
    }
    let instances = if dir.join("tasks").is_dir() {
        Instance::take_all(dir, "", Some(dir), &owner(verb))?
    } else {
        // Joined with nothing, a path is itself.
        Instance::take_all(dir, "", None, &owner(verb))?
    };
    let place = Place {
        plan: None,
        stores: stores(&instances)?,
        instances,
        _copies: None,
        _held: Vec::new(),
    };
    place.not_empty(dir)
}

pub(super) fn is_store(dir: &Path) -> bool {
    let has = |name| dir.join(name).exists();
    has("identity.json") || has("sled") || has("note")
}

impl Place {
    /// Whether stores of more than one instance are there, so that the task alone names none.
    pub(super) fn is_several(&self) -> bool {
        let mut instances = self.stores.iter().map(Store::instance);
        let first = instances.next();
        instances.any(|other| Some(other) != first)
    }

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
