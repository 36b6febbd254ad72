//! Reading a state: what lies above the store over what is in it, and tables filled from both.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::State;
use crate::registry::{TableSpec, read_entry};
use crate::store::Page;
use crate::{Error, Kind, Result, StateStore, Stateful, TableId, key};

/// Elements read from the store at once by a scan: enough that the way to its thread does not count.
pub(crate) const PAGE: usize = 1_024;

impl State {
    /// The values of stored keys, in their order, as of the last closed epoch.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let mut values = Vec::with_capacity(keys.len());
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        {
            let overlay = self.shared.overlay();
            for (place, key) in keys.iter().enumerate() {
                let found = overlay.get(key);
                if found.is_none() {
                    missing.push(key.clone());
                    places.push(place);
                }
                values.push(found.flatten());
            }
        }
        // What is not above the store is in it and does not change before the next epoch closes.
        if !missing.is_empty() {
            let found = self.shared.store.get_many(missing).await?;
            for (place, value) in places.into_iter().zip(found) {
                values[place] = value;
            }
        }
        Ok(values)
    }

    /// Elements whose key starts with `prefix`, in key order, beginning after the key `after`, as of the last
    /// closed epoch. About `limit` of them; an empty page is the end.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> Result<Page> {
        let limit = limit.max(1);
        let mut after = after;
        loop {
            // First what is above the store: what is written meanwhile is then in both.
            let (above, above_end) = self
                .shared
                .overlay()
                .range(&prefix, after.as_deref(), limit);
            let below = self
                .shared
                .store
                .scan(prefix.clone(), after.clone(), limit)
                .await?;
            let below_end = below.last().map(|(key, _)| key.clone());
            // Beyond the nearer end one of the two has not told everything.
            let end = match (above_end, below_end) {
                (Some(above), Some(below)) => Some(above.min(below)),
                (above, below) => above.or(below),
            };
            let mut merged: BTreeMap<Bytes, Option<Bytes>> = below
                .into_iter()
                .map(|(key, value)| (key, Some(value)))
                .collect();
            merged.extend(above);
            let page: Page = merged
                .into_iter()
                .take_while(|(key, _)| end.as_ref().is_none_or(|end| key <= end))
                .filter_map(|(key, value)| Some((key, value?)))
                .collect();
            if !page.is_empty() || end.is_none() {
                return Ok(page);
            }
            // Nothing but tombstones: go on behind them.
            after = end;
        }
    }

    /// Everything under a prefix, in key order.
    pub(crate) async fn collect(&self, prefix: Bytes) -> Result<Page> {
        let mut all = Page::new();
        loop {
            let after = all.last().map(|(key, _)| key.clone());
            let page = self.scan(prefix.clone(), after, PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Loads keys of a table that it does not know, all with one visit to the store.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or a value does not decode.
    pub async fn load<K: AsRef<[u8]>>(
        &self,
        table: &mut dyn Stateful,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<()> {
        let (id, kind) = (table.id(), table.kind());
        let mut users: Vec<K> = keys
            .into_iter()
            .filter(|user| !table.knows(user.as_ref()))
            .collect();
        users.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        users.dedup_by(|a, b| a.as_ref() == b.as_ref());
        if users.is_empty() {
            return Ok(());
        }
        for user in &users {
            key::check(id, user.as_ref())?;
        }
        let encoded: Vec<Bytes> = users
            .iter()
            .map(|user| key::encoded(kind, id, user.as_ref()))
            .collect();
        metrics::counter!("tidemill_state_misses_total").increment(users.len() as u64);
        if kind == Kind::Value {
            let values = self.get_many(&encoded).await?;
            for (user, value) in users.iter().zip(&values) {
                let element = value.as_ref().map(|value| (&[][..], value));
                table.load(user.as_ref(), element.as_slice())?;
            }
            return Ok(());
        }
        let mut groups: Vec<BTreeMap<Bytes, Option<Bytes>>> = {
            let overlay = self.shared.overlay();
            encoded
                .iter()
                .map(|prefix| overlay.range(prefix, None, usize::MAX).0)
                .collect()
        };
        let below = self.shared.store.get_prefixes(encoded.clone()).await?;
        for (group, below) in groups.iter_mut().zip(below) {
            for (key, value) in below {
                group.entry(key).or_insert(Some(value));
            }
        }
        for ((user, prefix), group) in users.iter().zip(&encoded).zip(&groups) {
            let elements: Vec<_> = group
                .iter()
                .filter_map(|(key, value)| Some((key.get(prefix.len()..)?, value.as_ref()?)))
                .collect();
            table.load(user.as_ref(), &elements)?;
        }
        Ok(())
    }

    /// Loads a table as far as its byte bound goes. If that is all there is, the table is then complete.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or a value does not decode.
    pub async fn load_all(&self, table: &mut dyn Stateful) -> Result<()> {
        let (prefix, kind) = (table.id().prefix(), table.kind());
        let damaged = || Error::damaged(self.path(), "a stored key is cut short");
        let mut after = None;
        // The elements of the user key that is being read; a page may end among them.
        let mut user: Option<Bytes> = None;
        let mut elements: Page = Page::new();
        let mut all = true;
        loop {
            let page = self.scan(prefix.clone(), after.clone(), PAGE).await?;
            let last = page.is_empty();
            after = page.last().map(|(key, _)| key.clone()).or(after);
            for (key, value) in page {
                let (_, rest) = TableId::split(&key).ok_or_else(damaged)?;
                let (key_of, element) = key::decode(kind, rest).ok_or_else(damaged)?;
                let (key_of, element) = (key.slice_ref(key_of), key.slice_ref(element));
                if user.as_ref() != Some(&key_of) {
                    all &= hand_over(table, user.as_ref(), &elements)?;
                    elements.clear();
                    user = Some(key_of);
                }
                elements.push((element, value));
            }
            if last {
                all &= hand_over(table, user.as_ref(), &elements)?;
                break;
            }
            if !all && !table.observes_all() {
                break;
            }
        }
        if all {
            table.set_complete();
        }
        Ok(())
    }

    /// The tables in a store, for listings.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or its registry is damaged.
    pub async fn stored_tables(store: &dyn StateStore) -> Result<Vec<(TableId, TableSpec)>> {
        let (mut tables, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan(TableId::REGISTRY.prefix(), after, PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(tables);
            };
            after = Some(last.clone());
            for (key, value) in &page {
                tables.push(read_entry(&key.slice(2..), value)?);
            }
        }
    }
}

/// Gives the elements of one user key to the table, while it has room. Says whether it took them.
fn hand_over(table: &mut dyn Stateful, user: Option<&Bytes>, elements: &Page) -> Result<bool> {
    let Some(user) = user else { return Ok(true) };
    let elements: Vec<_> = elements
        .iter()
        .map(|(element, value)| (&element[..], value))
        .collect();
    table.observe(user, &elements)?;
    if table.bytes() >= table.bytes_max() {
        return Ok(table.knows(user));
    }
    table.load(user, &elements)?;
    Ok(true)
}
