//! From runs to statistics, a verdict and tables: the study beside its published figures.
//!
//! [`Study::new`] takes the runs of a study and what the networks are; [`Study::write`] leaves `study.json` and `report.md`; [`Page`] is
//! the study as one page for a browser, `report.html`.
//!
//! # How the verdict is reached
//! The study names its *primary* figures, by default the final test accuracy of each network, and for each the smallest difference
//! that matters, its *margin*. Ours are n runs of each network, which differ in their seed only; the published figure is a mean of
//! m runs, often of one. If all come from one process, the difference of the means over `s sqrt(1/n + 1/m)` has Student's
//! distribution, where s is the standard deviation from seed to seed ([`Comparison`]).
//!
//! * s is that of our own seeds, drawn towards that of the other networks by as much as their spreads are alike
//!   ([`statistics::moderated`]). With fewer than three seeds it is that of the repository's [`Record`] of the same study; the
//!   published curve says nothing about the spread between seeds.
//! * The primary figures are judged together, by Holm's correction: of faithful reproductions at most 5 % are called different.
//! * All other figures (loss; accuracy and loss of each epoch) are shown with their intervals, and one test says whether they could
//!   be ours ([`CurveCheck`]). It has a level of its own, 1 %.
//! * A study is *reproduced* if nothing differs, there are three seeds or more of each network, and a difference as large as the
//!   margin would have been noticed in 8 of 10 cases. Otherwise it is *undecided*: these runs could not have told.
//! * The published conclusion is judged too ([`Claim`]): counts exactly, a difference between networks by Welch's interval,
//!   "comparable" by two one-sided tests against a margin.
//!
//! The sampling noise of a test set of 10,000 images (about 0.4 points) is *not* a floor under s. It says how far an accuracy
//! would move on other images; but the published figure and ours are measured on the same ones, where luck in their choice is
//! shared and cancels. What differs, the training, is in s. The report names that noise for those who take an accuracy as an
//! estimate for unseen images.
//!
//! **Architecture invariant:** nothing here depends on a tensor library, or on the time of day: the same runs give the same
//! report, byte for byte.

mod compare;
mod error;
mod facts;
mod figure;
mod html;
mod judgement;
mod markdown;
mod network;
mod number;
mod published;
mod record;
pub mod statistics;
mod study;
mod table;

pub use error::{Error, Result};
pub use facts::{LayerFacts, NetworkFacts};
pub use html::Page;
pub use judgement::{Claim, CurveCheck, Homogeneity, Outcome, Unit};
pub use network::{EpochReport, Figure, NetworkReport, RunSummary, Verdict};
pub use number::{duration, thousands};
pub use published::{Metric, Primary, Published, PublishedClaim, PublishedEpoch, PublishedNetwork};
pub use record::{Record, RecordedEpoch, RecordedFigure, RecordedNetwork};
pub use statistics::{Comparison, Reported, Sample, Spread, SpreadSource};
pub use study::{Data, RecordSeeds, Study};
pub use table::{Align, Table};
