//! A table for people, and the same figures as JSON.

use std::fmt;

use serde_json::{Value, json};

/// A table: a title, columns, rows of text.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. The first column names the rows.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        let row = std::iter::once(name.to_owned()).chain(cells).collect();
        self.rows.push(row);
    }

    /// The table as JSON: a list of rows by column.
    pub fn json(&self) -> Value {
        let object = |row: &Vec<String>| -> Value {
            let cells = row.iter().map(|cell| Value::from(cell.as_str()));
            Value::Object(self.columns.iter().cloned().zip(cells).collect())
        };
        let rows: Vec<Value> = self.rows.iter().map(object).collect();
        json!({ "title": self.title, "rows": rows })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n", self.title)?;
        let rows = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |column: usize| {
            let cells = rows().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in rows() {
            for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match place {
                    0 => write!(formatter, "  {cell:<width$}")?,
                    _ => write!(formatter, "  {cell:>width$}")?,
                }
            }
            writeln!(formatter)?;
        }
        Ok(())
    }
}

/// The median of some figures, with the least and the most.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The figure in the middle.
    pub median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// The spread of these.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self {
            median: figures.get(figures.len() / 2).copied().unwrap_or_default(),
            least: figures.first().copied().unwrap_or_default(),
            most: figures.last().copied().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.1} ({:.1} to {:.1})",
            self.median, self.least, self.most
        )
    }
}
