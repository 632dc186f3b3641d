//! Alerts: rules over what Forebay knows, one incident of each at a time, and notices of them that go to webhooks.
//!
//! # Layout
//! - [`Settings`]: what a file says; [`Plan`], [`Rule`], [`Webhook`]: what that means
//! - `watch`: when an incident begins and ends, given what was measured when. Pure: no clock, no I/O
//! - `book`: incidents and notices, all that is to be remembered. Pure too; `store` keeps it in a file
//! - [`Sight`]: what rules are measured by (`measure`)
//! - `message`: what a webhook gets, and its signature; `deliver`: how it gets it
//! - [`Alerts`]: all of it at work (`engine`); [`AlertsStatus`]: what is told of it (`status`)
//!
//! # Invariants
//! - Rules are about the present: nothing is measured while the views are behind the log, made anew or frozen. So no
//!   replay of the log ever alerts anybody.
//! - A notice is in the file before it is sent, under the id that it keeps: whatever is killed, who gets it twice can tell.
//! - No secret and no webhook's address is ever logged, stored or answered.

mod book;
mod deliver;
mod engine;
mod measure;
mod message;
mod plan;
mod settings;
mod status;
mod store;
mod watch;

pub use book::{Event, Incident, Subject, Why};
pub use engine::{Alerts, UnknownName};
pub use measure::Sight;
pub use plan::{Format, Kind, Plan, Rule, Unit, Webhook, mask_url};
pub use settings::{Amount, RuleSettings, Settings, WebhookSettings};
pub use status::{AlertsStatus, Delivery, DeliveryState, RuleState, RuleStatus, Tested, WebhookStatus};
pub use store::StoreError;
