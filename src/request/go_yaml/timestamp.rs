//! Timestamps as yaml.v3 recognizes them, formatted as Go writes them to JSON.

use jiff::civil::{Date, DateTime};

/// Returns a plain scalar's timestamp in RFC 3339 with as many decimals as needed, or `None` if it is not a timestamp.
///
/// Three forms are accepted: a date; a date, spaces and a time of day; or date and time joined by `T` and followed by a
/// zone. Every number except the year may have one digit, and the seconds may have decimals.
pub(super) fn parse(text: &str) -> Option<String> {
    let mut rest = Scanner(text);
    let year = rest.parse_digits(4, 4).filter(|_| text.as_bytes().get(4) == Some(&b'-'))?;
    let month = rest.skip_prefix("-")?.parse_digits(1, 2)?;
    let day = rest.skip_prefix("-")?.parse_digits(1, 2)?;
    let date = Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let (time, zone) = match rest.0.as_bytes().first() {
        None => (date.at(0, 0, 0, 0), "Z".to_owned()),
        Some(b' ') => {
            rest.0 = rest.0.trim_start_matches(' ');
            (rest.parse_time_of_day(date)?, "Z".to_owned())
        }
        Some(b'T' | b't') => {
            rest.0 = &rest.0[1..];
            (rest.parse_time_of_day(date)?, rest.parse_zone()?)
        }
        Some(_) => return None,
    };
    rest.0.is_empty().then(|| format!("{time}{zone}"))
}

/// The remaining input.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    fn skip_prefix(&mut self, prefix: &str) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(prefix)?;
        Some(self)
    }

    /// Parses a number of at least `least` and at most `most` digits.
    fn parse_digits(&mut self, min_count: usize, max_count: usize) -> Option<u32> {
        let count = self.0.bytes().take(max_count).take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        if count < min_count { None } else { digits.parse().ok() }
    }

    fn parse_time_of_day(&mut self, date: Date) -> Option<DateTime> {
        let hour = self.parse_digits(1, 2)?;
        let minute = self.skip_prefix(":")?.parse_digits(1, 2)?;
        let second = self.skip_prefix(":")?.parse_digits(1, 2)?;
        let (hour, minute, second) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?);
        let fraction = self.parse_fraction();
        DateTime::new(date.year(), date.month(), date.day(), hour, minute, second, fraction).ok()
    }

    /// Parses the decimals of a second as nanoseconds, 0 if there are none. Go also accepts a comma, and drops digits
    /// after the ninth.
    fn parse_fraction(&mut self) -> i32 {
        let Some(decimals) = self.0.strip_prefix(['.', ',']).filter(|d| d.starts_with(|c: char| c.is_ascii_digit()))
        else {
            return 0;
        };
        let count = decimals.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = decimals.split_at(count);
        self.0 = rest;
        digits.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, digit| n * 10 + i32::from(digit - b'0'))
    }

    /// Parses `Z`, or an offset in whole minutes.
    fn parse_zone(&mut self) -> Option<String> {
        if self.skip_prefix("Z").is_some() {
            return Some("Z".to_owned());
        }
        let sign = self.0.chars().next().filter(|c| matches!(c, '+' | '-'))?;
        self.0 = &self.0[1..];
        let hours = self.parse_digits(2, 2)?;
        let minutes = self.skip_prefix(":")?.parse_digits(2, 2)?;
        if hours > 23 || minutes > 59 {
            return None;
        }
        Some(if hours == 0 && minutes == 0 { "Z".to_owned() } else { format!("{sign}{hours:02}:{minutes:02}") })
    }
}
