//! Points in time: UTC microseconds, written as RFC 3339 with `Z`.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A point in time in microseconds since 1970-01-01T00:00:00Z.
///
/// Textual formats carry it as RFC 3339 with six fraction digits and `Z`; binary ones as the plain integer.
/// Celery's `utcoffset` is never applied: its raw timestamps are UTC already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The years that RFC 3339 can write with four digits; anything outside is a broken clock or an attack.
const EARLIEST: i64 = -62_135_596_800_000_000;
const LATEST: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// The time of so many microseconds after the epoch; `None` outside the years 1 to 9999.
    pub fn from_micros(micros: i64) -> Option<Self> {
        (EARLIEST..=LATEST).contains(&micros).then_some(Self(micros))
    }

    /// The time of Celery's float epoch seconds, rounded to the microsecond; `None` when it is not a time.
    pub fn from_epoch_seconds(seconds: f64) -> Option<Self> {
        // Apart, since their product has no bits left for the half microsecond. The casts saturate (NaN becomes 0, hence
        // the check), and a saturated value is outside the range that `from_micros` accepts.
        let fraction = (seconds.fract() * 1e6).round() as i64;
        let micros = (seconds.trunc() as i64).saturating_mul(1_000_000).saturating_add(fraction);
        if seconds.is_finite() { Self::from_micros(micros) } else { None }
    }

    /// Parses RFC 3339 with any offset. A time without an offset is taken as UTC, as Python's `isoformat` of a naive
    /// UTC time writes it (Celery's `eta`).
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Self::from_micros(time.timestamp_micros());
        }
        let naive = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
        Self::from_micros(naive.and_utc().timestamp_micros())
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down, as the API shows them.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// RFC 3339 with milliseconds and `Z`, the API's form: `2026-02-27T10:30:02.000Z`.
    pub fn to_millis_text(self) -> String {
        self.text(SecondsFormat::Millis)
    }

    /// RFC 3339 with microseconds and `Z`, the log's form: `2026-02-27T10:30:02.000000Z`.
    pub fn to_micros_text(self) -> String {
        self.text(SecondsFormat::Micros)
    }

    fn text(self, format: SecondsFormat) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default().to_rfc3339_opts(format, true)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_micros_text())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&self.to_micros_text())
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TextVisitor)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time in RFC 3339, for example 2026-02-27T10:30:02.000Z")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, UTC; written with six fraction digits and Z, read with any offset."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_both_forms() {
        let time = Timestamp::parse("2026-02-27T10:30:02.123456Z").unwrap();
        assert_eq!(time.to_micros_text(), "2026-02-27T10:30:02.123456Z");
        assert_eq!(time.to_millis_text(), "2026-02-27T10:30:02.123Z");
        assert_eq!(Timestamp::parse("2026-02-27T16:00:02.123456+05:30"), Some(time));
        assert_eq!(Timestamp::parse("2026-02-27T10:30:02.123456"), Some(time));
        assert_eq!(Timestamp::parse("2026-02-27"), None);
    }

    #[test]
    fn refuses_what_is_no_time() {
        for seconds in [f64::NAN, f64::INFINITY, -f64::INFINITY, 1e300, -1e300, 3e11] {
            assert_eq!(Timestamp::from_epoch_seconds(seconds), None, "{seconds}");
        }
        assert_eq!(Timestamp::from_epoch_seconds(1_795_440_115.833_834_4).unwrap().micros(), 1_795_440_115_833_834);
    }

    #[test]
    fn milliseconds_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp(-1).millis(), -1);
        assert_eq!(Timestamp(-1).to_millis_text(), "1969-12-31T23:59:59.999Z");
    }
}
