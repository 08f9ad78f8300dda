//! Decoding: the vectors that codes represent, and their scores against float queries.

use std::convert::Infallible;

use multiversion::multiversion;

use crate::planes;
use crate::pool;
use crate::vectors::{BadRow, all_finite, fault};

/// Decodes codes of `planes` planes: a code represents threshold + (level + 1/2) * step, where level is the code's top
/// `planes` bits minus 2^(planes-1).
pub struct Decoder<'a> {
    threshold: &'a [f32],
    step: Vec<f32>,
    planes: usize,
}

impl<'a> Decoder<'a> {
    /// The step is radius / 2^(planes-1); a single plane steps from threshold - deviation to threshold + deviation.
    pub fn new(threshold: &'a [f32], radius: &[f32], deviation: &[f32], planes: usize) -> Self {
        let step = match planes {
            1 => deviation.iter().map(|deviation| 2.0 * deviation).collect(),
            _ => radius.iter().map(|radius| radius / (1 << (planes - 1)) as f32).collect(),
        };
        Decoder { threshold, step, planes }
    }

    fn dimensions(&self) -> usize {
        self.threshold.len()
    }

    /// A buffer for the codes of one row, as planes::unpack fills it.
    fn buffer(&self) -> Vec<u8> {
        vec![0; 8 * planes::width(self.dimensions())]
    }

    /// Writes level + 1/2 of each dimension of a row into `out`.
    fn levels(&self, row: &[u8], buffer: &mut [u8], out: &mut [f32]) {
        let first = self.planes.min(8);
        planes::unpack(row, first, buffer);
        levels(buffer, first, out);
        if self.planes > 8 {
            planes::unpack(&row[buffer.len()..], self.planes - 8, buffer);
            refine(buffer, self.planes - 8, out);
        }
    }
}

/// Writes the decoded vector of each row of `codes`, `stride` bytes a row, into `out`.
pub fn dequantize(codes: &[u8], stride: usize, decoder: &Decoder, out: &mut [f32]) {
    let dimensions = decoder.dimensions();
    let Ok(()) = pool::for_row_chunks::<_, Infallible>(4 * dimensions, dimensions, out, |first, out| {
        let mut unpacked = decoder.buffer();
        for (row, out) in codes[first * stride..].chunks_exact(stride).zip(out.chunks_exact_mut(dimensions)) {
            decoder.levels(row, &mut unpacked, out);
            decode_row(decoder.threshold, &decoder.step, out);
        }
        Ok(())
    });
}

/// Writes the inner product of every query and every decoded row into `out`, one row of `out` for each query. A query
/// has as many floats as the threshold. With `by_length` the product is divided by the length of the decoded row; it is
/// 0 where that length is 0.
pub fn score(
    codes: &[u8],
    stride: usize,
    queries: &[f32],
    decoder: &Decoder,
    by_length: bool,
    out: &mut [f32],
) -> Result<(), BadRow> {
    let folded: Vec<FoldedQuery> = queries
        .chunks_exact(decoder.dimensions())
        .enumerate()
        .map(|(row, query)| FoldedQuery::new(row, query, decoder))
        .collect::<Result<_, _>>()?;
    let rows = codes.len() / stride;
    let chunk = pool::chunk_rows(stride);
    let tiles = pool::tiles(out, rows, chunk).into_iter().enumerate().collect();
    pool::map(codes.len() * folded.len(), tiles, |(tile, mut out): (usize, Vec<&mut [f32]>)| {
        score_tile(&codes[tile * chunk * stride..], stride, &folded, decoder, by_length, &mut out)
    });
    Ok(())
}

/// A query multiplied by the steps once, so that score = constant + sum of weight * (level + 1/2).
struct FoldedQuery {
    weights: Vec<f32>,
    constant: f64,
}

impl FoldedQuery {
    fn new(row: usize, query: &[f32], decoder: &Decoder) -> Result<Self, BadRow> {
        if !all_finite(query) {
            return Err(BadRow { row, reason: fault(query).unwrap_or_default() });
        }
        let weights = query.iter().zip(&decoder.step).map(|(q, step)| q * step).collect();
        let constant = query.iter().zip(decoder.threshold).map(|(&q, &t)| f64::from(q) * f64::from(t)).sum();
        Ok(FoldedQuery { weights, constant })
    }
}

fn score_tile(
    codes: &[u8],
    stride: usize,
    queries: &[FoldedQuery],
    decoder: &Decoder,
    by_length: bool,
    out: &mut [&mut [f32]],
) {
    let mut unpacked = decoder.buffer();
    let mut row_levels = vec![0.0; decoder.dimensions()];
    let rows = out.first().map_or(0, |out| out.len());
    for (row, codes) in codes.chunks_exact(stride).take(rows).enumerate() {
        decoder.levels(codes, &mut unpacked, &mut row_levels);
        let factor = if by_length { inverse_length(decoder, &row_levels) } else { 1.0 };
        for (query, out) in queries.iter().zip(out.iter_mut()) {
            out[row] = (factor * (query.constant + f64::from(dot(&query.weights, &row_levels)))) as f32;
        }
    }
}

/// Writes level + 1/2 of codes whose lower bits are zero; exact in float32.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn levels(codes: &[u8], planes: usize, out: &mut [f32]) {
    let shift = 8 - planes;
    for (out, &code) in out.iter_mut().zip(codes) {
        let level = ((code ^ 0x80) as i8) >> shift;
        *out = f32::from(level) + 0.5;
    }
}

/// Adds `planes` bits, at the top of second bytes, to level + 1/2 of eight bits; exact in float32.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn refine(second_bytes: &[u8], planes: usize, levels: &mut [f32]) {
    let (finer, shift) = ((1 << planes) as f32, 8 - planes);
    for (level, &byte) in levels.iter_mut().zip(second_bytes) {
        *level = (*level - 0.5) * finer + f32::from(byte >> shift) + 0.5;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode_row(threshold: &[f32], step: &[f32], levels: &mut [f32]) {
    for ((level, threshold), step) in levels.iter_mut().zip(threshold).zip(step) {
        *level = threshold + *level * step;
    }
}

/// 1 / the length of the decoded vector, or 0 where that length is 0.
fn inverse_length(decoder: &Decoder, levels: &[f32]) -> f64 {
    let mut squared = f64::from(squared_length(decoder.threshold, &decoder.step, levels));
    if !(1e-30..1e30).contains(&squared) {
        let values = decoder.threshold.iter().zip(&decoder.step).zip(levels).map(|((t, step), level)| t + level * step);
        squared = values.map(|value| f64::from(value).powi(2)).sum(); // the squares overflow or underflow in float32
    }
    if squared > 0.0 { squared.sqrt().recip() } else { 0.0 }
}

/// The sum of (threshold + level * step)^2, in 32 running sums as in `dot`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn squared_length(threshold: &[f32], step: &[f32], levels: &[f32]) -> f32 {
    let mut sums = [0.0f32; 32];
    let (threshold_groups, threshold_tail) = threshold.as_chunks::<32>();
    let (step_groups, step_tail) = step.as_chunks::<32>();
    let (level_groups, level_tail) = levels.as_chunks::<32>();
    for ((threshold, step), levels) in threshold_groups.iter().zip(step_groups).zip(level_groups) {
        for (((sum, threshold), step), level) in sums.iter_mut().zip(threshold).zip(step).zip(levels) {
            let value = threshold + level * step;
            *sum += value * value;
        }
    }
    for (((sum, threshold), step), level) in sums.iter_mut().zip(threshold_tail).zip(step_tail).zip(level_tail) {
        let value = threshold + level * step;
        *sum += value * value;
    }
    sums.iter().sum()
}

/// Inner product in 32 running sums: independent additions vectorize, and the rounding error stays small.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 32];
    let (a_groups, a_tail) = a.as_chunks::<32>();
    let (b_groups, b_tail) = b.as_chunks::<32>();
    for (a, b) in a_groups.iter().zip(b_groups) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_tail).zip(b_tail) {
        *sum += a * b;
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plane_decodes_to_threshold_and_deviation() {
        let decoder = Decoder::new(&[1.0, 1.0], &[9.0, 9.0], &[0.25, 0.25], 1);
        let mut out = [0.0; 2];
        dequantize(&[0b1000_0000], 1, &decoder, &mut out);
        assert_eq!(out, [1.25, 0.75]);
    }

    #[test]
    fn scores_are_inner_products_with_decoded_rows() {
        let decoder = Decoder::new(&[1.0], &[8.0], &[0.0], 4);
        let codes = [0x80, 0, 0, 0]; // level 8 of 16: just above the threshold
        let mut out = [0.0; 2];
        score(&codes, 4, &[3.0, -1.0], &decoder, false, &mut out).unwrap();
        assert_eq!(out, [4.5, -1.5]);
        score(&codes, 4, &[3.0, -1.0], &decoder, true, &mut out).unwrap();
        assert_eq!(out, [3.0, -1.0]);
    }

    #[test]
    fn lengths_are_those_of_decoded_rows_at_any_size() {
        for size in [1.0, 1e-30, 1e30] {
            let (threshold, step) = ([0.5 * size; 65], [size; 65]);
            let decoder = Decoder { threshold: &threshold, step: step.to_vec(), planes: 4 };
            let levels: Vec<f32> = (0..65).map(|i| (i % 16) as f32 - 7.5).collect();
            let exact: f64 = levels.iter().map(|level| f64::from(size * (level + 0.5)).powi(2)).sum();
            assert!((inverse_length(&decoder, &levels) * exact.sqrt() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_row_of_length_zero_scores_zero() {
        let decoder = Decoder::new(&[0.25], &[1.0], &[0.25], 1);
        let mut out = [1.0];
        score(&[0], 1, &[3.0], &decoder, true, &mut out).unwrap();
        assert_eq!(out, [0.0]);
    }
}
