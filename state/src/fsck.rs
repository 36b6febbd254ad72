//! Checking a store as a whole.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use crate::directory::{ENGINE, StoredIdentity};
use crate::headway::Counted;
use crate::state::PAGE;
use crate::{
    Digest, Doing, Error, Identity, Note, Result, Share, SledOptions, SledStore, State, StateStore,
    Stored, TableId, TableSpec, Watch, chain,
};

/// What a check found.
#[derive(Debug, Clone)]
pub struct Fsck {
    /// Whose state it is.
    pub identity: Identity,
    /// The store's number.
    pub id: u128,
    /// How far it has followed the log; `None` if it holds nothing of use.
    pub stored: Option<Stored>,
    /// What it may hold beyond.
    pub note: Note,
    /// The tables, by number, with what they hold.
    pub tables: Vec<TableContent>,
    /// Elements in all tables, the registry included.
    pub elements: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
    /// The digest of what is there.
    pub digest: Digest,
    /// Whether the digest could be compared: not while the store is between two epochs. Opening it with its
    /// changelog settles that.
    pub compared: bool,
    /// What is wrong, in words. Empty: the store is sound.
    pub findings: Vec<String>,
}

/// What a table holds in the store.
#[derive(Debug, Clone)]
pub struct TableContent {
    /// Its number.
    pub id: TableId,
    /// How it was declared; `None` if the registry does not know it.
    pub spec: Option<TableSpec>,
    /// Its elements.
    pub elements: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Reads the store in `dir` as a whole and checks it. Changes nothing, and sets nothing aside.
///
/// # Errors
///
/// If the directory holds no store, is in use or cannot be read, if its format is newer, or if the store is too
/// damaged to be opened.
pub async fn fsck(dir: &Path, owner: &str, watch: Watch<'_>) -> Result<Fsck> {
    let stored = match StoredIdentity::read(dir)? {
        Some(stored) => stored,
        None if dir.join(ENGINE).exists() => {
            return Err(Error::damaged(dir, "its identity.json is missing"));
        }
        None => return Err(Error::invalid(format!("{} holds no state", dir.display()))),
    };
    let identity = stored.identity();
    let options = SledOptions {
        path: dir.to_path_buf(),
        identity: identity.clone(),
        owner: owner.to_owned(),
        new_id: stored.id(),
        cache_bytes: SledOptions::CACHE_BYTES,
    };
    let store = SledStore::open_strict(options).await?;
    let found = check(&store, identity, watch).await;
    store.close().await?;
    found
}

async fn check(store: &SledStore, identity: Identity, watch: Watch<'_>) -> Result<Fsck> {
    let (stored, note) = (store.stored().await?, store.note().await?);
    let mut report = Fsck {
        identity,
        id: store.opened().id,
        stored,
        note,
        tables: Vec::new(),
        elements: 0,
        bytes: 0,
        digest: Digest::EMPTY,
        compared: false,
        findings: Vec::new(),
    };
    let specs: BTreeMap<TableId, TableSpec> = match State::stored_tables(store).await {
        Ok(specs) => specs.into_iter().collect(),
        Err(error @ Error::Decode { .. }) => {
            report
                .findings
                .push(format!("the registry of tables: {}", chain(&error)));
            BTreeMap::new()
        }
        Err(error) => return Err(error),
    };
    let mut tables: BTreeMap<TableId, TableContent> = specs
        .into_iter()
        .map(|(id, spec)| {
            (
                id,
                TableContent {
                    id,
                    spec: Some(spec),
                    elements: 0,
                    bytes: 0,
                },
            )
        })
        .collect();
    let mut counted = Counted::begin(watch, Doing::Comparing, None);
    let mut after: Option<Bytes> = None;
    loop {
        let page = store.scan(Bytes::new(), after.clone(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        counted.add(page.len() as u64);
        for (key, value) in &page {
            report.elements += 1;
            report.bytes += (key.len() + value.len()) as u64;
            report.digest.add(Share::of(key, value));
            let Some((id, rest)) = TableId::split(key) else {
                report
                    .findings
                    .push(format!("a key of {} bytes belongs to no table", key.len()));
                continue;
            };
            if id == TableId::REGISTRY {
                continue;
            }
            let table = tables.entry(id).or_insert_with(|| {
                report
                    .findings
                    .push(format!("table {id} is not in the registry"));
                TableContent {
                    id,
                    spec: None,
                    elements: 0,
                    bytes: 0,
                }
            });
            table.elements += 1;
            table.bytes += (key.len() + value.len()) as u64;
            if table
                .spec
                .as_ref()
                .is_some_and(|spec| spec.kind.split(rest).is_none())
            {
                report
                    .findings
                    .push(format!("a key of table {id} is cut short"));
            }
        }
    }
    report.tables = tables.into_values().collect();
    match stored {
        Some(stored) if note.newest <= Some(stored.epoch) => {
            report.compared = true;
            if stored.digest != report.digest {
                let (epoch, expected, found) = (stored.epoch, stored.digest, report.digest);
                let error = Error::DigestMismatch {
                    epoch,
                    expected,
                    found,
                };
                report.findings.push(error.to_string());
            }
        }
        // A first pass that was interrupted, or none yet.
        None if report.elements == 0 => report.compared = true,
        _ => {}
    }
    Ok(report)
}
