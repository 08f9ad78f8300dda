//! Quantiles of |x - threshold| in each dimension.

use crate::pool;
use crate::statistics::first_bad_row;
use crate::vectors::{BadRow, all_finite};

/// Dimensions that are gathered together: one cache line of each row, so that each line is read once.
const COLUMNS: usize = 16;

/// The quantile (0 to 1) of |x - threshold| in each dimension, over at least one row. Differences are float32; the
/// interpolation is linear and in float64, as in numpy.quantile; the result is float32.
pub fn deviation_quantile(vectors: &[f32], threshold: &[f32], quantile: f64) -> Result<Vec<f32>, BadRow> {
    let dimensions = threshold.len();
    if !all_finite(vectors) {
        return Err(first_bad_row(vectors, dimensions, 0));
    }
    let blocks = (0..dimensions).step_by(COLUMNS).collect();
    let parts = pool::map(size_of_val(vectors), blocks, |first: usize| {
        let last = dimensions.min(first + COLUMNS);
        block_quantiles(vectors, dimensions, first, &threshold[first..last], quantile)
    });
    Ok(parts.concat())
}

fn block_quantiles(vectors: &[f32], dimensions: usize, first: usize, threshold: &[f32], quantile: f64) -> Vec<f32> {
    let rows = vectors.len() / dimensions;
    let mut columns = vec![0u32; rows * threshold.len()];
    for (row, vector) in vectors.chunks_exact(dimensions).enumerate() {
        for (column, (x, threshold)) in vector[first..].iter().zip(threshold).enumerate() {
            // The bits of non-negative floats have the order of the floats, and compare faster.
            columns[column * rows + row] = (x - threshold).abs().to_bits();
        }
    }
    columns.chunks_exact_mut(rows).map(|column| interpolated(column, quantile)).collect()
}

fn interpolated(column: &mut [u32], quantile: f64) -> f32 {
    let position = (column.len() - 1) as f64 * quantile;
    let below = position.floor() as usize;
    let (_, &mut lower, above) = column.select_nth_unstable(below);
    let upper = above.iter().min().copied().unwrap_or(lower);
    lerp(f64::from(f32::from_bits(lower)), f64::from(f32::from_bits(upper)), position - below as f64) as f32
}

/// Interpolates from the nearer end, as numpy does: the last bit depends on it.
fn lerp(lower: f64, upper: f64, share: f64) -> f64 {
    let span = upper - lower;
    if share >= 0.5 { upper - span * (1.0 - share) } else { lower + span * share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        let vectors = [4.0, 1.0, -3.0, 2.0];
        assert_eq!(deviation_quantile(&vectors, &[0.0], 0.5).unwrap(), [2.5]);
        assert_eq!(deviation_quantile(&vectors, &[1.0], 1.0).unwrap(), [4.0]);
    }

    #[test]
    fn the_farther_end_would_give_another_last_bit() {
        assert_eq!(lerp(0.75, 1.45, 0.875), 1.3625);
        assert_ne!(0.75 + (1.45 - 0.75) * 0.875, 1.3625);
    }
}
