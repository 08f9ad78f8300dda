//! Encoder for rows in the binary COPY format of Postgres. A row is the number of its fields, then each field after its
//! length; all integers are big-endian (PostgreSQL documentation, COPY, "Binary Format"). Fields have the form that the
//! receive functions of bigint, text, bit, jsonb and of pgvector's vector and halfvec read.

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use qvec_core::hamming::Rows;
use qvec_core::pool;
use qvec_core::vectors::{BadRow, Vectors, fault, greatest_magnitude, magnitude};

/// Start of the data: signature, no flags, no header extension.
pub const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// End of the data: a field count of -1.
pub const TRAILER: &[u8; 2] = b"\xff\xff";

/// The field length of a null: -1.
const NULL: [u8; 4] = (-1i32).to_be_bytes();

/// The format version that the receive function of jsonb expects before the text.
const JSONB_VERSION: u8 = 1;

/// A column of strings: row i is the UTF-8 in data[offsets[i]..offsets[i + 1]], or null if valid[i] is false. Offsets must
/// ascend and lie within the data.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pub offsets: &'a [i64],
    pub data: &'a [u8],
    pub valid: Option<&'a [bool]>,
}

impl<'a> Text<'a> {
    fn get(&self, row: usize) -> Option<&'a [u8]> {
        let present = self.valid.is_none_or(|valid| valid[row]);
        present.then(|| &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize])
    }
}

#[derive(Clone, Copy)]
pub enum Ids<'a> {
    Integers(&'a [i64]),
    Text(Text<'a>),
}

/// An embedding column: of type halfvec if `half`, else vector.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    pub vectors: Vectors<'a>,
    pub half: bool,
}

impl Embedding<'_> {
    fn field_length(&self) -> usize {
        4 + self.vectors.dimensions() * if self.half { 2 } else { 4 }
    }
}

/// The columns of a batch, all with the same number of rows. If `document` or `metadata` is None, the column is null in
/// every row; if `learned` or `embedding` is None, the table has no such column.
pub struct Batch<'a> {
    pub rows: usize,
    pub ids: Ids<'a>,
    pub codes: Rows<'a>,
    pub learned: Option<Rows<'a>>,
    pub embedding: Option<Embedding<'a>>,
    pub document: Option<Text<'a>>,
    pub metadata: Option<Text<'a>>,
}

/// A batch whose texts are checked and whose rows are measured, ready to be written.
pub struct Encoder<'a> {
    batch: &'a Batch<'a>,
    chunk_rows: usize,
    chunk_lengths: Vec<usize>,
}

impl<'a> Encoder<'a> {
    pub fn new(batch: &'a Batch<'a>) -> Result<Self, BadRow> {
        let chunk_rows = pool::chunk_rows(batch.fixed_length());
        let starts: Vec<usize> = (0..batch.rows).step_by(chunk_rows).collect();
        let chunk_lengths = pool::map(batch.rows * batch.fixed_length(), starts, |start| {
            (start..batch.rows.min(start + chunk_rows)).map(|row| batch.measure(row)).sum()
        })
        .into_iter()
        .collect::<Result<_, _>>()?;
        Ok(Encoder { batch, chunk_rows, chunk_lengths })
    }

    /// Bytes of the encoded rows.
    pub fn length(&self) -> usize {
        self.chunk_lengths.iter().sum()
    }

    /// Writes the rows into `out`, which must have `length` bytes.
    pub fn write(&self, mut out: &mut [u8]) -> Result<(), BadRow> {
        let length = out.len();
        let mut chunks = Vec::with_capacity(self.chunk_lengths.len());
        for (chunk, &chunk_length) in self.chunk_lengths.iter().enumerate() {
            let (part, rest) = out.split_at_mut(chunk_length);
            chunks.push((chunk * self.chunk_rows, part));
            out = rest;
        }
        pool::map(length, chunks, |(first, part)| {
            let last = self.batch.rows.min(first + self.chunk_rows);
            let mut writer = Writer { out: part, halves: Vec::new(), floats: Vec::new() };
            (first..last).try_for_each(|row| self.batch.write(row, &mut writer))
        })
        .into_iter()
        .collect()
    }
}

impl Batch<'_> {
    fn field_count(&self) -> u16 {
        4 + u16::from(self.learned.is_some()) + u16::from(self.embedding.is_some())
    }

    /// Bytes of a row without its texts; an id counts as a bigint.
    fn fixed_length(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, |embedding| 4 + embedding.field_length());
        let learned = self.learned.as_ref().map_or(0, |bits| 4 + 4 + bits.stride);
        2 + (4 + 8) + (4 + 4 + self.codes.stride) + learned + embedding + 4 + 4
    }

    /// Bytes of a row.
    fn measure(&self, row: usize) -> Result<usize, BadRow> {
        let id = match self.ids {
            Ids::Integers(_) => 8,
            Ids::Text(text) => {
                measure_text(Some(text), "id", row)?.ok_or_else(|| BadRow { row, reason: "id is null".to_string() })?
            }
        };
        let document = measure_text(self.document, "document", row)?.unwrap_or(0);
        let metadata = measure_text(self.metadata, "metadata", row)?.map_or(0, |length| 1 + length);
        Ok(self.fixed_length() - 8 + id + document + metadata)
    }

    fn write(&self, row: usize, writer: &mut Writer) -> Result<(), BadRow> {
        writer.put(&self.field_count().to_be_bytes());
        match self.ids {
            Ids::Integers(ids) => writer.field(&[], &ids[row].to_be_bytes()),
            Ids::Text(text) => writer.field(&[], text.get(row).unwrap_or_default()),
        }
        writer.bits(&self.codes, row);
        if let Some(learned) = &self.learned {
            writer.bits(learned, row);
        }
        if let Some(embedding) = &self.embedding {
            writer.embedding(embedding, row)?;
        }
        writer.text(&[], self.document.and_then(|text| text.get(row)));
        writer.text(&[JSONB_VERSION], self.metadata.and_then(|text| text.get(row)));
        Ok(())
    }
}

/// Bytes of a text, or None if it is null.
fn measure_text(text: Option<Text>, name: &str, row: usize) -> Result<Option<usize>, BadRow> {
    let Some(text) = text.and_then(|text| text.get(row)) else {
        return Ok(None);
    };
    if text.contains(&0) {
        return Err(BadRow { row, reason: format!("{name} holds a NUL character, which Postgres refuses") });
    }
    // jsonb needs one byte for its version.
    if text.len() >= i32::MAX as usize {
        return Err(BadRow { row, reason: format!("{name} of {} bytes is too long for a field", text.len()) });
    }
    Ok(Some(text.len()))
}

/// Fills a buffer from its front. `halves` and `floats` are scratch space for converting a row.
struct Writer<'a> {
    out: &'a mut [u8],
    halves: Vec<f16>,
    floats: Vec<f32>,
}

impl Writer<'_> {
    fn take(&mut self, length: usize) -> &mut [u8] {
        let (taken, rest) = std::mem::take(&mut self.out).split_at_mut(length);
        self.out = rest;
        taken
    }

    fn put(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    fn field(&mut self, prefix: &[u8], bytes: &[u8]) {
        self.put(&((prefix.len() + bytes.len()) as u32).to_be_bytes());
        self.put(prefix);
        self.put(bytes);
    }

    fn bits(&mut self, rows: &Rows, row: usize) {
        let bits = &rows.bytes[row * rows.stride..][..rows.stride];
        self.field(&(8 * rows.stride as u32).to_be_bytes(), bits);
    }

    fn text(&mut self, prefix: &[u8], text: Option<&[u8]>) {
        match text {
            Some(text) => self.field(prefix, text),
            None => self.put(&NULL),
        }
    }

    fn embedding(&mut self, embedding: &Embedding, row: usize) -> Result<(), BadRow> {
        let dimensions = embedding.vectors.dimensions();
        self.put(&(embedding.field_length() as u32).to_be_bytes());
        self.put(&(dimensions as u16).to_be_bytes());
        self.put(&[0, 0]);
        let mut buffer = std::mem::take(&mut self.floats);
        let vector = embedding.vectors.stored(row, &mut buffer);
        check(vector, embedding.half).map_err(|reason| BadRow { row, reason })?;
        if embedding.half {
            self.halves.resize(dimensions, f16::ZERO);
            self.halves.convert_from_f32_slice(vector);
            let halves = std::mem::take(&mut self.halves);
            big_endian_halves(&halves, self.take(2 * dimensions));
            self.halves = halves;
        } else {
            big_endian_floats(vector, self.take(4 * dimensions));
        }
        self.floats = buffer;
        Ok(())
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn big_endian_halves(halves: &[f16], out: &mut [u8]) {
    for (out, half) in out.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
        *out = half.to_be_bytes();
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn big_endian_floats(floats: &[f32], out: &mut [u8]) {
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(floats) {
        *out = x.to_be_bytes();
    }
}

/// Rejects the values that pgvector rejects.
fn check(vector: &[f32], half: bool) -> Result<(), String> {
    let largest = if half { f16::MAX.to_f32() } else { f32::MAX };
    if greatest_magnitude(vector) <= magnitude(largest) {
        return Ok(());
    }
    Err(fault(vector).unwrap_or_else(|| {
        let dimension = vector.iter().position(|x| x.abs() > largest).unwrap_or_default();
        format!("{} at dimension {dimension} is beyond float16 ({largest})", vector[dimension])
    }))
}

#[cfg(test)]
mod tests {
    use qvec_core::vectors::Elements;

    use super::*;

    fn encode(batch: &Batch) -> Result<Vec<u8>, BadRow> {
        let encoder = Encoder::new(batch)?;
        let mut out = vec![0; encoder.length()];
        encoder.write(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_row_has_these_bytes() {
        let batch = Batch {
            rows: 1,
            ids: Ids::Integers(&[258]),
            codes: Rows { bytes: &[0xAB], stride: 1 },
            learned: None,
            embedding: Some(Embedding { vectors: Vectors::new(Elements::F32(&[1.0]), 1, 1), half: true }),
            document: None,
            metadata: Some(Text { offsets: &[0, 2], data: b"{}", valid: None }),
        };
        let fields: [&[u8]; 6] = [
            &[0, 5],
            &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 0, 0, 5, 0, 0, 0, 8, 0xAB],
            &[0, 0, 0, 6, 0, 1, 0, 0, 0x3C, 0],
            &NULL,
            &[0, 0, 0, 3, JSONB_VERSION, b'{', b'}'],
        ];
        assert_eq!(encode(&batch).unwrap(), fields.concat());
    }

    #[test]
    fn a_document_with_nul_is_an_error() {
        let document = Some(Text { offsets: &[0, 1, 3], data: b"ab\0", valid: None });
        let codes = Rows { bytes: &[0, 0], stride: 1 };
        let ids = Ids::Integers(&[1, 2]);
        let batch = Batch { rows: 2, ids, codes, learned: None, embedding: None, document, metadata: None };
        let bad = encode(&batch).unwrap_err();
        assert_eq!((bad.row, bad.reason.as_str()), (1, "document holds a NUL character, which Postgres refuses"));
    }
}
