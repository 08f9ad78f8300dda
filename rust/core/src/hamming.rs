//! Hamming distances between bit codes, and the nearest rows by Hamming distance.

use multiversion::multiversion;

use crate::pool;

/// Bytes of distances that may be in memory at once while the nearest rows are selected.
const GROUP_BYTES: usize = 1 << 25;

/// Rows of bit codes, `stride` bytes a row.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub bytes: &'a [u8],
    pub stride: usize,
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }
}

/// Writes the distance of every query to every row into `out`, one row of `out` for each query. Where rows are longer
/// than queries, only their prefix is compared.
pub fn hamming(codes: Rows, queries: Rows, out: &mut [i32]) {
    let chunk = pool::chunk_rows(codes.stride);
    let tiles = pool::tiles(out, codes.len(), chunk).into_iter().enumerate().collect();
    pool::map(codes.bytes.len() * queries.len(), tiles, |(tile, out): (usize, Vec<&mut [i32]>)| {
        let tile_codes = &codes.bytes[tile * chunk * codes.stride..];
        for (query, out) in queries.bytes.chunks_exact(queries.stride).zip(out) {
            distances(tile_codes, codes.stride, query, out);
        }
    });
}

/// Writes the `k` nearest rows to each query and their distances, nearest first, ties by lower row.
/// `k` is at least 1 and at most the number of rows.
pub fn nearest(codes: Rows, queries: Rows, k: usize, rows: &mut [i64], out: &mut [i32]) {
    let group = (GROUP_BYTES / (4 * codes.len())).clamp(1, queries.len().max(1));
    let mut scratch = vec![0; group * codes.len()];
    let outs = rows.chunks_mut(group * k).zip(out.chunks_mut(group * k));
    for (queries_bytes, (rows, out)) in queries.bytes.chunks(group * queries.stride).zip(outs) {
        let queries = Rows { bytes: queries_bytes, stride: queries.stride };
        let scratch = &mut scratch[..queries.len() * codes.len()];
        hamming(codes, queries, scratch);
        let jobs: Vec<_> = scratch.chunks_exact(codes.len()).zip(rows.chunks_mut(k).zip(out.chunks_mut(k))).collect();
        pool::map(4 * scratch.len(), jobs, |(distances, (rows, out))| select(distances, 8 * queries.stride, rows, out));
    }
}

/// Selects the nearest rows by a counting sort: the number of rows at each distance gives the place of that distance in
/// the result.
fn select(distances: &[i32], largest: usize, rows: &mut [i64], out: &mut [i32]) {
    let k = rows.len();
    let mut counts = vec![0usize; largest + 1];
    for &distance in distances {
        counts[distance as usize] += 1;
    }
    let mut places = counts;
    let mut before = 0;
    for place in &mut places {
        before += std::mem::replace(place, before);
    }
    let farthest = places.iter().rposition(|&place| place < k).unwrap_or(0) as i32;
    for (row, &distance) in distances.iter().enumerate() {
        if distance <= farthest {
            let place = &mut places[distance as usize];
            if *place < k {
                rows[*place] = row as i64;
                out[*place] = distance;
                *place += 1;
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512vpopcntdq", "x86_64+avx2+popcnt"))]
fn distances(codes: &[u8], stride: usize, query: &[u8], out: &mut [i32]) {
    for (row, out) in codes.chunks_exact(stride).zip(out) {
        *out = distance(&row[..query.len()], query) as i32;
    }
}

#[inline(always)]
fn distance(a: &[u8], b: &[u8]) -> u32 {
    let (a_words, a_tail) = a.as_chunks::<8>();
    let (b_words, b_tail) = b.as_chunks::<8>();
    let words =
        a_words.iter().zip(b_words).map(|(a, b)| (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).count_ones());
    let tail = a_tail.iter().zip(b_tail).map(|(a, b)| (a ^ b).count_ones());
    words.sum::<u32>() + tail.sum::<u32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_of_longer_rows_is_compared() {
        let mut out = [0; 2];
        hamming(Rows { bytes: &[0, 255, 3, 255], stride: 2 }, Rows { bytes: &[1], stride: 1 }, &mut out);
        assert_eq!(out, [1, 1]);
    }

    #[test]
    fn ties_go_to_the_lower_row() {
        let (mut rows, mut out) = ([0; 3], [0; 3]);
        let codes = Rows { bytes: &[7, 1, 2, 0, 4], stride: 1 };
        nearest(codes, Rows { bytes: &[0], stride: 1 }, 3, &mut rows, &mut out);
        assert_eq!((rows, out), ([3, 1, 2], [0, 1, 1]));
    }
}
