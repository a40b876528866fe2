//! From runs to statistics, a verdict and tables: the runs of a study compared with what was published of it.
//!
//! [`StudyReport::new`] takes the runs of a study, the facts about its networks, and the study; [`StudyReport::write`] writes `study.json`
//! and `report.md`; [`Page`] is the same as one page for a browser, `report.html`. A study of which nothing was published has no verdict:
//! its networks are shown side by side.
//!
//! # How the verdict is reached
//! The study names its *primary* figures, such as the final test accuracy of each network, and for each the smallest difference that
//! matters, its *margin*. Ours are n runs of each network, which differ in their seed only; the published figure is a mean of
//! m runs, often of one, and was rounded to a multiple of u when it was printed. If all come from one process, the difference of the
//! means over `sqrt(s² (1/n + 1/m) + u²/12)` has approximately Student's distribution, where s is the standard deviation from seed to
//! seed and u²/12 the variance of the rounding error ([`Comparison`]).
//!
//! * s is that of our own seeds, shrunk towards that of the other networks by as much as their spreads are alike
//!   ([`statistics::moderated`]). With fewer than three seeds it is that of the study's [`Record`]; the published curve says nothing
//!   about the spread between seeds.
//! * A figure that was claimed to be reached at least decides, too: the claim *holds* where the one-sided 95 % bound of our mean is
//!   beyond it, and *fails* where the opposite one is ([`Bound`]).
//! * Everything that could call a study different is judged together, with Holm's correction: at most 5 % of faithful reproductions are
//!   called different. That a claim holds needs no correction, because a study is reproduced only if all claims hold.
//! * All other figures (loss; accuracy and loss of each epoch) are shown with their intervals, and one test says whether they could
//!   be ours ([`CurveCheck`]). It has a level of its own, 1 %.
//! * A study is *reproduced* if nothing differs, all claims hold, there are three seeds or more of each network, and a difference as large
//!   as the margin would have been noticed in 8 of 10 cases. Otherwise it is *undecided*: these runs cannot tell.
//! * Runs that are not as the study describes them (another recipe, other images, another network) are *not comparable*.
//! * The published conclusion is judged separately ([`Claim`]): counts exactly, a difference between networks by Welch's interval, a ratio
//!   by Fieller's ([`statistics::RatioContrast`]), "comparable" by two one-sided tests against a margin.
//!
//! The sampling noise of a test set of 10,000 images (about 0.4 points) is *not* a lower bound of s. It says how far an accuracy
//! would move on other images; but the published figure and ours are measured on the same ones, where luck in their choice is
//! shared and cancels. What differs, the training, is in s. The report names that noise for those who take an accuracy as an
//! estimate for unseen images.
//!
//! **Architecture invariant:** nothing here depends on a tensor library, on the time of day, or on the name of a study or a network: the
//! same runs give the same report, byte for byte.

mod claim;
mod compare;
mod effect;
mod error;
mod facts;
mod figure;
mod html;
mod judgement;
mod markdown;
mod network;
mod number;
mod record;
pub mod statistics;
mod study;
mod table;

pub use claim::{Claim, Unit};
pub use effect::Effect;
pub use error::{Error, Result};
pub use facts::{LayerFacts, NetworkFacts};
pub use html::Page;
pub use judgement::{CurveCheck, Homogeneity};
pub use network::{EpochReport, Figure, NetworkReport, Outcome, RunSummary, Verdict};
pub use number::{duration, thousands};
pub use record::{Record, RecordedEpoch, RecordedFigure, RecordedNetwork};
pub use statistics::{Bound, Combination, Comparison, Reported, Sample, Spread, SpreadSource};
pub use study::{About, Data, RecordSeeds, StudyReport};
pub use table::{Align, Table};
