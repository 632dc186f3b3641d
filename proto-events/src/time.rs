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
        if let Some(time) = parse_micros_text(text.as_bytes()) {
            return Some(time);
        }
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
        self.micros_text().map_or_else(|| self.text(SecondsFormat::Micros), |text| text.as_str().to_owned())
    }

    /// The log's form without a detour: every event has some of these. `None` outside the years 0 to 9999.
    fn micros_text(self) -> Option<MicrosText> {
        let (days, of_day) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        if !(0..=9_999).contains(&year) {
            return None;
        }
        let (seconds, micros) = (of_day / SECOND, of_day % SECOND);
        let mut text = MicrosText(*b"0000-00-00T00:00:00.000000Z");
        let parts = [(0, 4, year), (5, 7, month), (8, 10, day), (11, 13, seconds / 3_600), (14, 16, seconds / 60 % 60)];
        for (begin, end, number) in parts.into_iter().chain([(17, 19, seconds % 60), (20, 26, micros)]) {
            let mut rest = number;
            for digit in text.0[begin..end].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        Some(text)
    }

    fn text(self, format: SecondsFormat) -> String {
        DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default().to_rfc3339_opts(format, true)
    }
}

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A time in the log's form.
struct MicrosText([u8; 27]);

impl MicrosText {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits and the separators of the template are ASCII")
    }
}

/// Reads exactly the log's form; anything else, valid or not, is left to the general parser.
fn parse_micros_text(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 27] = text.try_into().ok()?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')];
    if separators.iter().any(|(place, separator)| text[*place] != *separator) {
        return None;
    }
    let number = |begin: usize, end: usize| {
        text[begin..end]
            .iter()
            .try_fold(0_i64, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, micros) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 26)?);
    let days = days_from_civil(year, month, day);
    // A date that the calendar does not have comes back as another one; a leap second is the general parser's matter.
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Timestamp::from_micros(days * DAY + ((hour * 60 + minute) * 60 + second) * SECOND + micros)
}

/// The proleptic Gregorian date of a day counted from 1970-01-01: in years that begin in March, a leap day is the last
/// of its year, and 400 years always have 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let since_march_0000 = days + 719_468;
    let (era, of_era) = (since_march_0000.div_euclid(146_097), since_march_0000.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_year - (153 * march_month + 2) / 5 + 1)
}

/// The day of a date, the inverse of [`civil`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let march_year = year - i64::from(month <= 2);
    let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_micros_text())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            match self.micros_text() {
                Some(text) => serializer.serialize_str(text.as_str()),
                None => serializer.serialize_str(&self.to_micros_text()),
            }
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

/// The schema of a time as the API shows it, by [`Timestamp::to_millis_text`].
#[cfg(feature = "schema")]
pub fn millis_schema() -> schemars::Schema {
    schemars::json_schema!({
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
    })
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

    proptest::proptest! {
        #[test]
        fn the_short_way_and_the_general_one_agree(micros in EARLIEST..=LATEST) {
            let time = Timestamp(micros);
            let text = time.to_micros_text();
            proptest::prop_assert_eq!(&text, &time.text(SecondsFormat::Micros));
            proptest::prop_assert_eq!(parse_micros_text(text.as_bytes()), Some(time));
        }

        #[test]
        fn the_short_way_reads_nothing_that_the_general_one_refuses(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{6}Z") {
            if let Some(time) = parse_micros_text(text.as_bytes()) {
                let general = DateTime::parse_from_rfc3339(&text).unwrap();
                proptest::prop_assert_eq!(time.micros(), general.timestamp_micros());
            }
        }
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
