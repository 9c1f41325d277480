//! Every reason for which a packet or datagram is dropped: the spellings of tests/vectors/reasons.json, which
//! come from the Python side's only list. Must never live here: anything but names.

macro_rules! reasons {
    ($($name:ident => $text:literal,)+) => {
        /// Why something that arrived (or was about to leave) went no further.
        #[repr(u8)]
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
        pub enum Reason { $(#[doc = $text] $name),+ }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: [Reason; Reason::COUNT] = [$(Reason::$name),+];
            /// How many there are: the size of an array with one place per reason.
            pub const COUNT: usize = [$($text),+].len();

            /// The spelling that metrics, logs and the Python side use.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text),+ }
            }

            /// The reason of this spelling; None for any other text.
            pub fn parse(text: &str) -> Option<Reason> {
                match text { $($text => Some(Reason::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    Malformed => "malformed",
    BadVersion => "bad_version",
    UnknownId => "unknown_id",
    UnknownFlow => "unknown_flow",
    GateClosed => "gate_closed",
    Muted => "muted",
    Blocked => "blocked",
    WrongSender => "wrong_sender",
    BadTag => "bad_tag",
    Duplicate => "duplicate",
    Unproven => "unproven",
    OverBudget => "over_budget",
    Quota => "quota",
    QueueFull => "queue_full",
    Stale => "stale",
    TooLarge => "too_large",
    Draining => "draining",
    PeerGone => "peer_gone",
    SendError => "send_error",
    Internal => "internal",
    NoPermission => "no_permission",
    NoChannel => "no_channel",
    NotWanted => "not_wanted",
    Shed => "shed",
    HopLimit => "hop_limit",
    SecondCopy => "second_copy",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_one_of_the_vector_file_in_its_order() {
        let text = include_str!("../../../tests/vectors/reasons.json");
        let parsed = crate::vectors::load(text);
        assert_eq!(parsed["reasons"].as_object().unwrap().len(), Reason::COUNT);
        // The order of the text, since a JSON object of the parser is sorted.
        let at = |reason: &Reason| text.find(&format!(": \"{}\"", reason.name())).unwrap();
        assert!(Reason::ALL
            .windows(2)
            .all(|pair| at(&pair[0]) < at(&pair[1])));
    }

    #[test]
    fn a_name_reads_back_and_a_number_is_its_place() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(Reason::parse(reason.name()), Some(reason));
            assert_eq!(reason as usize, place);
        }
        assert_eq!(Reason::parse("MALFORMED"), None);
        assert_eq!(Reason::parse(""), None);
    }
}
