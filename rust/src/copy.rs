//! Batches as rows of Postgres's binary COPY format: for each row the number of fields, then each field with its length
//! in front, all integers big-endian (PostgreSQL documentation, COPY, "Binary Format"; the fields as the receive
//! functions of bigint, text, bit, jsonb and of pgvector's vector and halfvec read them).

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;

use crate::hamming::Rows;
use crate::pool;
use crate::vectors::{BadRow, Vectors, fault, greatest_magnitude, magnitude};

/// The signature, no flags, no header extension.
pub const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A field count of -1 ends the data.
pub const TRAILER: &[u8; 2] = b"\xff\xff";

/// A field length of -1 means null.
const NULL: [u8; 4] = (-1i32).to_be_bytes();

/// What jsonb's receive function expects before the text.
const JSONB_VERSION: u8 = 1;

/// A column of strings: the UTF-8 of row i is data[offsets[i]..offsets[i + 1]], null where `valid` is false.
/// The offsets have been checked to ascend within the data.
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

/// An embedding column: halfvec where `half`, else vector.
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

/// The columns of a batch, all of the same number of rows. A document or metadata column that is None is null in every
/// row; learned bits or an embedding that are None are no column at all.
pub struct Batch<'a> {
    pub rows: usize,
    pub ids: Ids<'a>,
    pub codes: Rows<'a>,
    pub learned: Option<Rows<'a>>,
    pub embedding: Option<Embedding<'a>>,
    pub document: Option<Text<'a>>,
    pub metadata: Option<Text<'a>>,
}

/// A batch whose texts have been checked and whose rows have been measured, ready to be written.
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

    /// The length of the encoded rows in bytes.
    pub fn length(&self) -> usize {
        self.chunk_lengths.iter().sum()
    }

    /// Writes the rows into `out`, which has exactly the length asked for.
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

    /// Bytes of a row without its texts; an id counts as an integer.
    fn fixed_length(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, |embedding| 4 + embedding.field_length());
        let learned = self.learned.as_ref().map_or(0, |bits| 4 + 4 + bits.stride);
        2 + (4 + 8) + (4 + 4 + self.codes.stride) + learned + embedding + 4 + 4
    }

    /// The length of a row in bytes.
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

/// The length of a text, None where it is null.
fn measure_text(text: Option<Text>, name: &str, row: usize) -> Result<Option<usize>, BadRow> {
    let Some(text) = text.and_then(|text| text.get(row)) else {
        return Ok(None);
    };
    if text.contains(&0) {
        return Err(BadRow { row, reason: format!("{name} holds a NUL character, which Postgres refuses") });
    }
    // One byte is kept for jsonb's version.
    if text.len() >= i32::MAX as usize {
        return Err(BadRow { row, reason: format!("{name} of {} bytes is too long for a field", text.len()) });
    }
    Ok(Some(text.len()))
}

/// Fills a buffer from its front, with room for the conversion of a row.
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

/// Refuses values that pgvector refuses.
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
