//! Declared types of events: fields at places fixed when a pipeline file is checked.

use std::fmt;
use std::sync::Arc;

/// Most fields of an event: one bit each in a row's mask of fields that are there.
pub const FIELDS_MAX: usize = 64;

/// Most decimals of a [`Type::Decimal`]: what an `i64` can hold with one digit before the point.
pub const SCALE_MAX: u8 = 18;

/// The system's own events: files cannot declare others of these names.
pub const SYSTEM_EVENTS: [&str; 4] = [
    "OrderCreated",
    "OrderStateChanged",
    "StrategyExecuted",
    MARKET_DATA_UPDATE,
];

/// The event of the system that market data comes as.
pub const MARKET_DATA_UPDATE: &str = "MarketDataUpdate";

/// The type of a field. Each fits one 64-bit slot of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// UTF-8 text: a range of the rows' slab.
    Text,
    /// A whole number.
    Int,
    /// A number with exactly this many decimals, kept as an integer of the last one.
    Decimal(u8),
    /// True or false.
    Bool,
    /// An instant in microseconds since 1970-01-01T00:00:00Z.
    Time,
}

impl Type {
    /// Whether it can be added, compared and averaged.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Decimal(_))
    }

    /// Decimals of a number; 0 for the rest.
    pub fn scale(self) -> u8 {
        match self {
            Self::Decimal(scale) => scale,
            Self::Text | Self::Int | Self::Bool | Self::Time => 0,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Int => f.write_str("int"),
            Self::Decimal(scale) => write!(f, "decimal({scale})"),
            Self::Bool => f.write_str("bool"),
            Self::Time => f.write_str("time"),
        }
    }
}

/// One field of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name, as in JSON.
    pub name: Arc<str>,
    /// Its type.
    pub ty: Type,
    /// Whether an event without it is poison.
    pub required: bool,
}

/// The fields of one kind of event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Schema {
    /// The event's name.
    pub name: Arc<str>,
    /// Its fields; a field's index is its slot. At most [`FIELDS_MAX`].
    pub fields: Vec<Field>,
    /// The slot of its event time, of type [`Type::Time`]; the record's timestamp when `None`.
    pub time: Option<usize>,
}

impl Schema {
    /// The fields in these slots.
    pub(crate) fn at(&self, slots: &[usize]) -> Vec<&Field> {
        slots.iter().map(|slot| &self.fields[*slot]).collect()
    }

    /// An event whose fields are all required, with the field that is its event time: the record's
    /// timestamp is when `None`.
    ///
    /// # Panics
    ///
    /// If there are more than [`FIELDS_MAX`] fields, or `time` is none of them of type
    /// [`Type::Time`].
    pub fn new<'n>(
        name: &str,
        fields: impl IntoIterator<Item = (&'n str, Type)>,
        time: Option<&str>,
    ) -> Self {
        let field = |(name, ty): (&str, Type)| Field {
            name: name.into(),
            ty,
            required: true,
        };
        let fields: Vec<Field> = fields.into_iter().map(field).collect();
        assert!(fields.len() <= FIELDS_MAX, "`{name}` has too many fields");
        let slot = time.map(|time| {
            let is_time = |field: &Field| *field.name == *time && field.ty == Type::Time;
            let slot = fields.iter().position(is_time);
            assert!(
                slot.is_some(),
                "`{name}` has no field `{time}` of type time"
            );
            slot
        });
        Self {
            name: name.into(),
            fields,
            time: slot.flatten(),
        }
    }

    /// In the place of one that is not known.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self::new("", [], None))
    }

    /// The system's market data event, version 1, its prices and quantities with so many decimals.
    pub fn market_data_update(scale: u8) -> Self {
        let decimal = Type::Decimal(scale);
        let fields = [
            ("pair", Type::Text, true),
            ("currentPrice", decimal, true),
            ("timestamp", Type::Time, true),
            ("version", Type::Int, false),
            ("quantity", decimal, false),
            ("side", Type::Text, false),
            ("bid", decimal, false),
            ("bidQuantity", decimal, false),
            ("ask", decimal, false),
            ("askQuantity", decimal, false),
            ("venue", Type::Text, false),
            ("sequence", Type::Int, false),
            ("tradeId", Type::Text, false),
        ];
        Self {
            name: MARKET_DATA_UPDATE.into(),
            fields: fields
                .into_iter()
                .map(|(name, ty, required)| Field {
                    name: name.into(),
                    ty,
                    required,
                })
                .collect(),
            time: Some(2),
        }
    }

    /// Whether it is one of the system's own events, which say what they are.
    pub fn is_system_event(&self) -> bool {
        SYSTEM_EVENTS.contains(&&*self.name)
    }

    /// The slot of a field.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| &*field.name == name)
    }

    /// Slots in a row.
    pub fn width(&self) -> usize {
        self.fields.len()
    }
}
