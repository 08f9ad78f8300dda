//! Parallel work on large inputs, in a thread pool that survives fork.

use std::process;
use std::sync::RwLock;

use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Inputs below this size, in bytes, are processed before a second thread has woken.
const WORTH_SPREADING: usize = 1 << 20;

/// Input bytes of one task: large against the cost of scheduling it, small against the caches.
const CHUNK: usize = 1 << 18;

/// The pool and the id of the process that created it. Threads do not survive fork, so a child creates its own pool.
/// Pools are never dropped: in a child, dropping the parent's pool would wait for threads that do not exist.
static POOL: RwLock<Option<(u32, &'static ThreadPool)>> = RwLock::new(None);

/// The pool of this process, or None where no thread can be started. Locks are tried but never awaited: a fork may have
/// copied a lock that another thread held, and nobody would release it.
fn pool() -> Option<&'static ThreadPool> {
    if let Some((owner, pool)) = *POOL.try_read().ok()?
        && owner == process::id()
    {
        return Some(pool);
    }
    let mut slot = POOL.try_write().ok()?;
    let pool = &*Box::leak(Box::new(ThreadPoolBuilder::new().build().ok()?));
    *slot = Some((process::id(), pool));
    Some(pool)
}

/// Calls `work` on each item and returns the results in order. Runs in parallel if `bytes`, the size of the whole input,
/// is large.
pub fn map<I: Send, O: Send>(bytes: usize, items: Vec<I>, work: impl Fn(I) -> O + Send + Sync) -> Vec<O> {
    let pool = if bytes >= WORTH_SPREADING { pool() } else { None };
    match pool {
        Some(pool) if pool.current_num_threads() > 1 => pool.install(|| items.into_par_iter().map(work).collect()),
        _ => items.into_iter().map(work).collect(),
    }
}

/// The number of rows of `row_bytes` bytes in one task.
pub fn chunk_rows(row_bytes: usize) -> usize {
    (CHUNK / row_bytes).max(1)
}

/// Fills `out`, `out_row` elements for each row, by calls of `work(first row, part of out)`. Returns the error of the
/// first part that fails.
pub fn for_row_chunks<T: Send, E: Send>(
    row_bytes: usize,
    out_row: usize,
    out: &mut [T],
    work: impl Fn(usize, &mut [T]) -> Result<(), E> + Send + Sync,
) -> Result<(), E> {
    let rows = chunk_rows(row_bytes);
    let bytes = out.len() / out_row * row_bytes;
    let chunks = out.chunks_mut(rows * out_row).enumerate().collect();
    map(bytes, chunks, |(chunk, out)| work(chunk * rows, out)).into_iter().collect()
}

/// Splits the row-major matrix `out` of `columns` columns into tiles of at most `width` columns. A tile is a list of its
/// part of each row.
pub fn tiles<T>(out: &mut [T], columns: usize, width: usize) -> Vec<Vec<&mut [T]>> {
    let mut tiles: Vec<Vec<&mut [T]>> = (0..columns.div_ceil(width)).map(|_| Vec::new()).collect();
    for row in out.chunks_exact_mut(columns.max(1)) {
        for (tile, part) in tiles.iter_mut().zip(row.chunks_mut(width)) {
            tile.push(part);
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<usize> = (0..1000).collect();
        assert_eq!(map(usize::MAX, items.clone(), |item| item), items);
    }

    #[test]
    fn the_first_error_is_reported() {
        let mut out = vec![0u8; 1000];
        let error = for_row_chunks(CHUNK, 1, &mut out, |row, _| if row >= 7 { Err(row) } else { Ok(()) });
        assert_eq!(error, Err(7));
    }

    #[test]
    fn tiles_cover_every_column_of_every_row() {
        let mut out = [0, 1, 2, 10, 11, 12];
        let tiles = tiles(&mut out, 3, 2);
        assert_eq!(tiles, [[&mut [0, 1][..], &mut [10, 11]], [&mut [2], &mut [12]]]);
    }
}
