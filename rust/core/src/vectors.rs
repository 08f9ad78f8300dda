//! Rows of float vectors: read as float32, checked, cut to their first dimensions and, under cosine, normalized.

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;

use crate::pool;

/// A row that cannot be used, and the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRow {
    pub row: usize,
    pub reason: String,
}

/// A row whose squared norm is this close to 1 counts as normalized and is used unchanged.
pub const UNIT_TOLERANCE: f64 = 2e-4;

/// Running sums of the sum of squares. Part of the specification: the order of additions decides the last bit.
const LANES: usize = 8;

#[derive(Clone, Copy)]
pub enum Elements<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Elements<'_> {
    fn len(&self) -> usize {
        match self {
            Elements::F32(elements) => elements.len(),
            Elements::F16(elements) => elements.len(),
        }
    }

    fn bytes_each(&self) -> usize {
        match self {
            Elements::F32(_) => 4,
            Elements::F16(_) => 2,
        }
    }
}

/// A row-major matrix of `columns` columns; the first `dimensions` columns are used.
#[derive(Clone, Copy)]
pub struct Vectors<'a> {
    elements: Elements<'a>,
    columns: usize,
    dimensions: usize,
}

impl<'a> Vectors<'a> {
    /// `columns` must divide the number of elements, and 1 <= `dimensions` <= `columns`.
    pub fn new(elements: Elements<'a>, columns: usize, dimensions: usize) -> Self {
        Vectors { elements, columns, dimensions }
    }

    pub fn rows(&self) -> usize {
        self.elements.len() / self.columns
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    pub fn row_bytes(&self) -> usize {
        self.columns * self.elements.bytes_each()
    }

    /// Row `row` as float32, not normalized. `buffer` holds it if it has to be converted.
    pub fn stored<'b>(&'b self, row: usize, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        let range = row * self.columns..row * self.columns + self.dimensions;
        match self.elements {
            Elements::F32(elements) => &elements[range],
            Elements::F16(elements) => {
                buffer.resize(self.dimensions, 0.0);
                elements[range].convert_to_f32_slice(buffer);
                buffer
            }
        }
    }
}

/// Reads rows as quantization needs them: finite and, under cosine, of norm 1.
pub struct Reader<'a> {
    vectors: &'a Vectors<'a>,
    cosine: bool,
    converted: Vec<f32>,
    normalized: Vec<f32>,
}

impl<'a> Reader<'a> {
    pub fn new(vectors: &'a Vectors<'a>, cosine: bool) -> Self {
        Reader { vectors, cosine, converted: Vec::new(), normalized: Vec::new() }
    }

    /// The row, or the reason why it is bad. The sum of float32 squares is finite in float64 if and only if every value is
    /// finite.
    pub fn row(&mut self, row: usize) -> Result<&[f32], BadRow> {
        let stored = self.vectors.stored(row, &mut self.converted);
        let squared = squared_norm(stored);
        let reason = if !squared.is_finite() {
            fault(stored).unwrap_or_default()
        } else if !self.cosine || (squared - 1.0).abs() <= UNIT_TOLERANCE {
            return Ok(stored);
        } else if squared > 0.0 {
            self.normalized.resize(stored.len(), 0.0);
            divide(stored, squared.sqrt(), &mut self.normalized);
            return Ok(&self.normalized);
        } else {
            "zero vector, which has no direction under cosine".to_string()
        };
        Err(BadRow { row, reason })
    }
}

/// Writes the normalized rows into `out`, `dimensions` floats a row.
pub fn normalize(vectors: &Vectors, out: &mut [f32]) -> Result<(), BadRow> {
    let dimensions = vectors.dimensions();
    pool::for_row_chunks(vectors.row_bytes(), dimensions, out, |first, out| {
        let mut reader = Reader::new(vectors, true);
        for (offset, out) in out.chunks_exact_mut(dimensions).enumerate() {
            out.copy_from_slice(reader.row(first + offset)?);
        }
        Ok(())
    })
}

/// All rows that `Reader` rejects, in row order.
pub fn bad_rows(vectors: &Vectors, cosine: bool) -> Vec<BadRow> {
    let mut reader = Reader::new(vectors, cosine);
    (0..vectors.rows()).filter_map(|row| reader.row(row).err()).collect()
}

/// Name and place of the first value that is not finite, or None.
pub fn fault(row: &[f32]) -> Option<String> {
    let dimension = row.iter().position(|x| !x.is_finite())?;
    let name = if row[dimension].is_nan() { "NaN" } else { "infinity" };
    Some(format!("{name} at dimension {dimension}"))
}

pub fn all_finite(row: &[f32]) -> bool {
    greatest_magnitude(row) < magnitude(f32::INFINITY)
}

/// The greatest magnitude in a row: at least that of infinity if a value is not finite.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn greatest_magnitude(row: &[f32]) -> u32 {
    row.iter().fold(0, |greatest: u32, x| greatest.max(magnitude(*x)))
}

/// The bits of |x|. Their order is that of magnitudes, with infinity and then NaN above all numbers; their maximum is
/// several times as fast as comparing floats.
#[inline(always)]
pub fn magnitude(x: f32) -> u32 {
    x.to_bits() & (u32::MAX >> 1)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn squared_norm(row: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (groups, tail) = row.as_chunks::<LANES>();
    for group in groups {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn divide(row: &[f32], norm: f64, out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(row) {
        *out = (f64::from(x) / norm) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(elements: &[f32], columns: usize) -> Vectors<'_> {
        Vectors::new(Elements::F32(elements), columns, columns)
    }

    #[test]
    fn a_row_of_norm_five_is_divided_by_it() {
        let mut out = [0.0; 2];
        normalize(&vectors(&[3.0, 4.0], 2), &mut out).unwrap();
        assert_eq!(out, [0.6, 0.8]);
    }

    #[test]
    fn squares_are_added_in_eight_lanes_and_then_the_lanes_in_order() {
        let large = 134_217_728.0; // 2^27: beside its square, 2^54, a single 1 is lost
        assert_eq!(squared_norm(&[large, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 2f64.powi(54));
        assert_eq!(squared_norm(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, large]), 2f64.powi(54) + 8.0);
        let mut lane = [0.0; 25];
        lane[8] = large;
        (lane[0], lane[16], lane[24]) = (1.0, 1.0, 1.0);
        assert_eq!(squared_norm(&lane), 2f64.powi(54));
    }

    #[test]
    fn bad_rows_are_named_in_order() {
        let elements = [1.0, 0.0, f32::NAN, 1.0, 0.0, 0.0, 1.0, f32::NEG_INFINITY];
        let found: Vec<_> =
            bad_rows(&vectors(&elements, 2), true).into_iter().map(|bad| (bad.row, bad.reason)).collect();
        assert_eq!(found[0], (1, "NaN at dimension 0".to_string()));
        assert_eq!(found[1].0, 2);
        assert_eq!(found[2], (3, "infinity at dimension 1".to_string()));
    }
}
