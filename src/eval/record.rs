//! The part of a report that travels with the checkpoint.

use super::report::{Column, Network, Relation, Report, Role};
use crate::domain::{Quality, QualityRow};

/// Digits of a classifier's hash that tell it from others.
const HASH_DIGITS: usize = 12;
/// Digits that a recorded value keeps.
const DIGITS: i32 = 6;

impl Report {
    /// What the report's measure says of the model, by sampler and steps; where the model is its own teacher, Euler's
    /// and Heun's rows too. `None` where there is no row.
    pub fn quality(&self) -> Option<Quality> {
        let measure = self.columns.iter().find(|column| column.role == Role::Measure)?;
        let own = |network| {
            network == Network::Model || (network == Network::Teacher && self.teacher.relation == Relation::Itself)
        };
        let row = |row: &super::report::Row| {
            let value = rounded(*row.values.get(measure.key)?);
            Some(QualityRow { sampler: row.sampler?, steps: row.steps?, evaluations: row.evaluations?, value })
        };
        let rows: Vec<QualityRow> = self.rows.iter().filter(|row| own(row.network)).filter_map(row).collect();
        let samples = self.protocol.get("samples").and_then(serde_json::Value::as_u64).unwrap_or_default();
        let floor = self.floor(measure).map(rounded);
        (!rows.is_empty()).then(|| Quality {
            evaluator: self.evaluator_id(),
            measure: measure.title.into(),
            floor,
            samples,
            rows,
        })
    }

    fn floor(&self, measure: &Column) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.network == Network::Floor)?;
        row.values.get(measure.key).copied()
    }

    fn evaluator_id(&self) -> String {
        let hash = self.evaluator.classifier_blake3.as_deref().and_then(|hash| hash.get(..HASH_DIGITS));
        let classifier = hash.map(|hash| format!(", classifier {hash}")).unwrap_or_default();
        format!("{} {}{classifier}", self.evaluator.name, self.evaluator.version)
    }
}

/// The value in a few significant digits.
#[expect(clippy::cast_possible_truncation, reason = "the power of ten of an f64 is small")]
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let places = DIGITS - 1 - value.abs().log10().floor() as i32;
    let digits = usize::try_from(places.max(0)).unwrap_or(0);
    format!("{value:.digits$}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Sampler;
    use crate::eval::report::tests::report;

    #[test]
    fn the_models_rows_are_kept_with_the_floor() {
        let quality = report().quality().unwrap();
        assert_eq!((quality.measure.as_str(), quality.samples, quality.floor), ("KL", 64_000, None));
        let row = QualityRow { sampler: Sampler::FlowMap, steps: 2, evaluations: 2, value: 0.5 };
        assert_eq!((quality.evaluator.as_str(), quality.rows), ("flowmap 1.2.3", vec![row]));
        let mut own = report();
        own.teacher.relation = Relation::Itself;
        own.evaluator.classifier_blake3 = Some("ab".repeat(32));
        let quality = own.quality().unwrap();
        assert_eq!(quality.rows.len(), 2);
        assert!(quality.evaluator.ends_with(", classifier abababababab"));
        own.rows.clear();
        assert!(own.quality().is_none());
    }

    #[test]
    fn values_keep_six_digits() {
        for (value, kept) in
            [(0.123_456_789, 0.123_457), (11.516_999_9, 11.517), (1_234_567.8, 1_234_568.0), (0.0, 0.0)]
        {
            assert_eq!(rounded(value), kept);
        }
    }
}
