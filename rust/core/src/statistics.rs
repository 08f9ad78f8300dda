//! Streaming statistics of each dimension, in one pass over batches: mergeable and numerically stable.

use std::sync::Arc;

use multiversion::multiversion;

use crate::pool;
use crate::vectors::{BadRow, fault};

/// Rows whose mean and squared deviations are computed in two passes while they are in the cache.
const BLOCK_ROWS: usize = 64;

/// The least number of rows of one parallel task, and the largest number of tasks of a batch. Both are fixed so that
/// results do not depend on the number of threads.
const CHUNK_ROWS: usize = 1024;
const CHUNKS: usize = 64;

/// Count of rows and, for each dimension, mean, sum of squared deviations from the mean, minimum and maximum; with a
/// threshold also the sum of |x - threshold|.
#[derive(Clone)]
pub struct Statistics {
    count: u64,
    mean: Vec<f64>,
    squares: Vec<f64>,
    minimum: Vec<f32>,
    maximum: Vec<f32>,
    threshold: Option<Arc<[f32]>>,
    distances: Vec<f64>,
}

impl Statistics {
    pub fn new(dimensions: usize, threshold: Option<Arc<[f32]>>) -> Self {
        Statistics {
            count: 0,
            mean: vec![0.0; dimensions],
            squares: vec![0.0; dimensions],
            minimum: vec![f32::INFINITY; dimensions],
            maximum: vec![f32::NEG_INFINITY; dimensions],
            distances: vec![0.0; if threshold.is_some() { dimensions } else { 0 }],
            threshold,
        }
    }

    pub fn dimensions(&self) -> usize {
        self.mean.len()
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The population variance; NaN before the first row.
    pub fn variance(&self) -> Vec<f64> {
        self.squares.iter().map(|squares| squares / self.count as f64).collect()
    }

    pub fn threshold(&self) -> Option<&[f32]> {
        self.threshold.as_deref()
    }

    /// The mean of |x - threshold|, summed in float64. None without a threshold; NaN before the first row.
    pub fn absolute_deviation(&self) -> Option<Vec<f32>> {
        let mean = |sum: &f64| (sum / self.count as f64) as f32;
        self.threshold.as_ref().map(|_| self.distances.iter().map(mean).collect())
    }

    pub fn minimum(&self) -> &[f32] {
        &self.minimum
    }

    pub fn maximum(&self) -> &[f32] {
        &self.maximum
    }

    /// Adds the rows of `vectors`, row-major, `dimensions` floats a row. A bad row leaves the statistics unchanged.
    pub fn update(&mut self, vectors: &[f32]) -> Result<(), BadRow> {
        let dimensions = self.dimensions();
        let chunk_rows = (vectors.len() / dimensions).div_ceil(CHUNKS).max(CHUNK_ROWS);
        let chunks = vectors.chunks(chunk_rows * dimensions).enumerate().collect();
        let parts: Vec<Statistics> =
            pool::map(size_of_val(vectors), chunks, |(chunk, vectors)| self.of_chunk(vectors, chunk * chunk_rows))
                .into_iter()
                .collect::<Result<_, _>>()?;
        for part in &parts {
            self.merge(part);
        }
        Ok(())
    }

    /// The statistics of one chunk, with the same threshold.
    fn of_chunk(&self, vectors: &[f32], first_row: usize) -> Result<Self, BadRow> {
        let mut total = Statistics::new(self.dimensions(), self.threshold.clone());
        for (block, vectors) in vectors.chunks(BLOCK_ROWS * self.dimensions()).enumerate() {
            total.merge(&self.of_block(vectors, first_row + block * BLOCK_ROWS)?);
        }
        Ok(total)
    }

    fn of_block(&self, vectors: &[f32], first_row: usize) -> Result<Self, BadRow> {
        let dimensions = self.dimensions();
        let mut block = Statistics::new(dimensions, self.threshold.clone());
        block.count = (vectors.len() / dimensions) as u64;
        sum_and_range(vectors, &mut block.mean, &mut block.minimum, &mut block.maximum);
        // The sum of float32 values is finite in float64 if and only if every value is finite.
        if !block.mean.iter().all(|sum| sum.is_finite()) {
            return Err(first_bad_row(vectors, dimensions, first_row));
        }
        block.mean.iter_mut().for_each(|sum| *sum /= block.count as f64);
        sum_squares(vectors, &block.mean, &mut block.squares);
        if let Some(threshold) = &self.threshold {
            sum_distances(vectors, threshold, &mut block.distances);
        }
        Ok(block)
    }

    /// Adds the rows of `other` (Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance).
    pub fn merge(&mut self, other: &Statistics) {
        if other.count == 0 {
            return;
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let share = theirs / (ours + theirs);
        for i in 0..self.dimensions() {
            let shift = other.mean[i] - self.mean[i];
            self.mean[i] += shift * share;
            self.squares[i] += other.squares[i] + shift * shift * ours * share;
            self.minimum[i] = self.minimum[i].min(other.minimum[i]);
            self.maximum[i] = self.maximum[i].max(other.maximum[i]);
        }
        self.distances.iter_mut().zip(&other.distances).for_each(|(sum, other)| *sum += other);
        self.count += other.count;
    }
}

/// The first row with a value that is not finite; `vectors` must hold one.
pub fn first_bad_row(vectors: &[f32], dimensions: usize, first_row: usize) -> BadRow {
    let mut faults = vectors.chunks_exact(dimensions).map(fault).enumerate();
    let (row, reason) = faults.find_map(|(row, fault)| Some((row, fault?))).unwrap_or_default();
    BadRow { row: first_row + row, reason }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_and_range(vectors: &[f32], sums: &mut [f64], minimum: &mut [f32], maximum: &mut [f32]) {
    for row in vectors.chunks_exact(sums.len()) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
        for ((least, greatest), &x) in minimum.iter_mut().zip(maximum.iter_mut()).zip(row) {
            *least = if x < *least { x } else { *least };
            *greatest = if x > *greatest { x } else { *greatest };
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_squares(vectors: &[f32], mean: &[f64], squares: &mut [f64]) {
    for row in vectors.chunks_exact(mean.len()) {
        for ((square, &mean), &x) in squares.iter_mut().zip(mean).zip(row) {
            let deviation = f64::from(x) - mean;
            *square += deviation * deviation;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn sum_distances(vectors: &[f32], threshold: &[f32], sums: &mut [f64]) {
    for row in vectors.chunks_exact(threshold.len()) {
        for ((sum, &x), &threshold) in sums.iter_mut().zip(row).zip(threshold) {
            *sum += (f64::from(x) - f64::from(threshold)).abs();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_offset_does_not_drown_the_variance() {
        let mut statistics = Statistics::new(1, None);
        for batch in [[8_388_600.0, 8_388_601.0], [8_388_602.0, 8_388_603.0]] {
            statistics.update(&batch).unwrap();
        }
        assert_eq!(statistics.mean(), [8_388_601.5]);
        assert_eq!(statistics.variance(), [1.25]);
    }

    #[test]
    fn the_absolute_deviation_is_the_mean_distance() {
        let mut statistics = Statistics::new(1, Some([1.0].into()));
        statistics.update(&[4.0, 1.0, -3.0]).unwrap();
        statistics.update(&[2.0]).unwrap();
        assert_eq!(statistics.absolute_deviation(), Some(vec![2.0]));
        assert_eq!(Statistics::new(1, None).absolute_deviation(), None);
    }

    #[test]
    fn a_bad_row_changes_nothing() {
        let mut statistics = Statistics::new(2, None);
        let error = statistics.update(&[1.0, 2.0, 3.0, f32::NAN]).unwrap_err();
        assert_eq!((error.row, error.reason.as_str()), (1, "NaN at dimension 1"));
        assert_eq!(statistics.count(), 0);
    }
}
