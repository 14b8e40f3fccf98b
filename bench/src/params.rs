//! Parameters of a scenario: declared as data, set by `--set name=value`, checked once.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use roam_runtime::load::units::bits_per_second;
use serde_json::{Map, Value as Json, json};

/// A parameter a scenario takes.
#[derive(Debug)]
pub(crate) struct Param {
    /// What it is called in `--set` and in results.
    pub(crate) name: &'static str,
    /// Its canonical value, as one would write it.
    pub(crate) default: &'static str,
    /// What values it takes.
    pub(crate) kind: Kind,
    /// What it is, in a phrase.
    pub(crate) help: &'static str,
}

/// What values a parameter takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A whole number from and to, both included.
    Count(u64, u64),
    /// A number of seconds from and to, both included.
    Seconds(f64, f64),
    /// So many bytes from and to, both included; `256MiB`.
    Bytes(u64, u64),
    /// Bits per second, as `100Mbit`, or `unlimited`.
    Link,
    /// Requests per second, or `max`: as many as are answered.
    Rate,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One or more of these words, with commas between.
    Subset(&'static [&'static str]),
}

/// The most requests a second one can ask for.
const RATE_PER_S_MAX: f64 = 1e8;

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(least, most) => write!(f, "{least} to {most}"),
            Self::Seconds(least, most) => write!(f, "{least} to {most} seconds"),
            Self::Bytes(least, most) => write!(f, "{least} to {most} bytes, as 64MiB"),
            Self::Link => f.write_str("unlimited, or bits per second, as 100Mbit"),
            Self::Rate => write!(f, "max, or a number per second up to {RATE_PER_S_MAX:e}"),
            Self::Choice(words) => f.write_str(&words.join("|")),
            Self::Subset(words) => write!(f, "one or more of {}", words.join(",")),
        }
    }
}

/// A checked value.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Count(u64),
    Number(f64),
    /// `rate=max`.
    Max,
    /// `link=unlimited`.
    Unlimited,
    Word(&'static str),
    Words(Vec<&'static str>),
}

impl Kind {
    fn parse(self, text: &str) -> Option<Value> {
        let number = || text.parse::<f64>().ok();
        match self {
            Self::Count(least, most) => text.parse().ok().filter(|n| (least..=most).contains(n)).map(Value::Count),
            Self::Seconds(least, most) => number().filter(|n| (least..=most).contains(n)).map(Value::Number),
            Self::Bytes(least, most) => bytes(text).filter(|n| (least..=most).contains(n)).map(Value::Count),
            Self::Link if text == "unlimited" => Some(Value::Unlimited),
            Self::Link => bits_per_second(text).ok().filter(|bits| *bits >= 1.0).map(Value::Number),
            Self::Rate if text == "max" => Some(Value::Max),
            Self::Rate => number().filter(|n| *n > 0.0 && *n <= RATE_PER_S_MAX).map(Value::Number),
            Self::Choice(words) => words.iter().find(|word| **word == text).map(|word| Value::Word(word)),
            Self::Subset(words) => {
                let given: Vec<&str> = text.split(',').collect();
                let known = given.iter().all(|word| words.contains(word));
                // In the declared order, so that equal sets give equal runs.
                let chosen = words.iter().copied().filter(|word| given.contains(word)).collect();
                known.then_some(Value::Words(chosen))
            }
        }
    }
}

/// The values of one run, one for each declared parameter.
#[derive(Clone, Debug)]
pub(crate) struct Params(Vec<(&'static str, Value)>);

impl Params {
    /// The canonical values, changed by `settings` (`name=value`, the last one counts).
    pub(crate) fn new(declared: &'static [Param], settings: &[String]) -> Result<Self> {
        let mut values = Vec::with_capacity(declared.len());
        for param in declared {
            values.push((param.name, check(param, param.default)?));
        }
        for setting in settings {
            let (name, text) = setting
                .split_once('=')
                .ok_or_else(|| anyhow!("`--set {setting}`: write name=value; there is {}", names(declared)))?;
            let index = declared.iter().position(|param| param.name == name);
            let index = index.ok_or_else(|| anyhow!("there is no parameter `{name}`; there is {}", names(declared)))?;
            values[index].1 = check(&declared[index], text)?;
        }
        Ok(Self(values))
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        match self.value(name) {
            Value::Count(count) => *count as usize,
            other => panic!("{name} is {other:?}, not a count"),
        }
    }

    pub(crate) fn seconds(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Number(seconds) => Duration::from_secs_f64(*seconds),
            other => panic!("{name} is {other:?}, not seconds"),
        }
    }

    /// `None` for `max`.
    pub(crate) fn rate(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Value::Number(rate) => Some(*rate),
            Value::Max => None,
            other => panic!("{name} is {other:?}, not a rate"),
        }
    }

    /// Bits a second; `None` for `unlimited`.
    pub(crate) fn link(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Value::Number(bits) => Some(*bits as u64),
            Value::Unlimited => None,
            other => panic!("{name} is {other:?}, not a link"),
        }
    }

    pub(crate) fn word(&self, name: &str) -> &'static str {
        match self.value(name) {
            Value::Word(word) => word,
            other => panic!("{name} is {other:?}, not a word"),
        }
    }

    pub(crate) fn words(&self, name: &str) -> &[&'static str] {
        match self.value(name) {
            Value::Words(words) => words,
            other => panic!("{name} is {other:?}, not words"),
        }
    }

    /// As results carry them.
    pub(crate) fn to_json(&self) -> Json {
        let json = |value: &Value| match value {
            Value::Count(count) => json!(count),
            Value::Number(number) => json!(number),
            Value::Max => json!("max"),
            Value::Unlimited => json!("unlimited"),
            Value::Word(word) => json!(word),
            Value::Words(words) => json!(words.join(",")),
        };
        Json::Object(self.0.iter().map(|(name, value)| ((*name).to_owned(), json(value))).collect::<Map<_, _>>())
    }

    /// A scenario that asks for what it has not declared is a mistake in this program.
    fn value(&self, name: &str) -> &Value {
        let found = self.0.iter().find(|(found, _)| *found == name);
        &found.unwrap_or_else(|| panic!("{name} is not declared")).1
    }
}

/// A number of bytes, of KiB, MiB or GiB with that behind it.
fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let found = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = found.unwrap_or((text, 0));
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn check(param: &Param, text: &str) -> Result<Value> {
    match param.kind.parse(text) {
        Some(value) => Ok(value),
        None => bail!("`{}={text}`: {} ({})", param.name, param.kind, param.help),
    }
}

fn names(declared: &[Param]) -> String {
    declared.iter().map(|param| param.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARED: &[Param] = &[
        Param { name: "payload", default: "64", kind: Kind::Count(16, 65_507), help: "bytes" },
        Param { name: "seconds", default: "2", kind: Kind::Seconds(0.05, 60.0), help: "a round" },
        Param { name: "rate", default: "max", kind: Kind::Rate, help: "requests" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "version" },
        Param { name: "memory", default: "2MiB", kind: Kind::Bytes(1 << 20, 1 << 30), help: "held" },
        Param { name: "link", default: "unlimited", kind: Kind::Link, help: "of hosts" },
        Param { name: "engines", default: "a,b", kind: Kind::Subset(&["a", "b"]), help: "who" },
    ];

    fn params(settings: &[&str]) -> Result<Params> {
        Params::new(DECLARED, &settings.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_are_the_canonical_form() {
        let params = params(&[]).unwrap();
        assert_eq!(
            params.to_json(),
            json!({
                "payload": 64, "seconds": 2.0, "rate": "max", "ip": "4", "memory": 2 << 20, "link": "unlimited",
                "engines": "a,b",
            })
        );
        assert_eq!((params.count("payload"), params.rate("rate"), params.word("ip")), (64, None, "4"));
    }

    #[test]
    fn settings_change_them() {
        let params = params(&["payload=100", "seconds=0.5", "rate=2e3", "ip=6", "engines=b,a", "payload=200"]).unwrap();
        assert_eq!((params.count("payload"), params.seconds("seconds")), (200, Duration::from_millis(500)));
        assert_eq!(
            (params.rate("rate"), params.word("ip"), params.words("engines")),
            (Some(2000.0), "6", &["a", "b"][..])
        );
        let params = self::params(&["memory=64MiB", "link=100Mbit"]).unwrap();
        assert_eq!((params.count("memory"), params.link("link")), (64 << 20, Some(100_000_000)));
    }

    #[test]
    fn what_there_is_not_is_answered_with_what_there_is() {
        let said = |setting: &str| params(&[setting]).unwrap_err().to_string();
        assert!(said("speed=9").contains("payload, seconds, rate, ip, memory, link, engines"));
        assert!(said("payload").contains("name=value"));
        assert!(said("payload=8").contains("16 to 65507"));
        assert!(said("payload=-1").contains("16 to 65507"));
        assert!(said("seconds=nan").contains("0.05 to 60 seconds"));
        assert!(said("rate=0").contains("max"));
        assert!(said("ip=5").contains("4|6"));
        assert!(said("memory=1TiB").contains("1048576 to 1073741824"));
        assert!(said("link=fast").contains("100Mbit"));
        assert!(said("engines=a,c").contains("one or more of a,b"));
        assert!(said("engines=").contains("one or more of a,b"));
    }
}
