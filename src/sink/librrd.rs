//! librrd: files that are not exactly of our schema, rows, and graphs.
//!
//! librrd locks, maps and unmaps a file for every update (20 us), and a second thread makes it
//! slower.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rrd::ConsolidationFn;
use rrd::error::RrdError;
use rrd::ops::graph::elements::{
    Area, AreaColor, CDef, ColorWithLegend, Comment, Def, GPrint, GraphElement, Legend, Line, VDef,
    VarName,
};
use rrd::ops::graph::props::{
    FontParams, FontTag, GraphProps, ImageFormat, Labels, Limits, Misc, Size, TimeRange,
};
use rrd::ops::graph::{self, Color};
use rrd::ops::info::InfoValue;
use rrd::ops::update::{BatchTime, Datum, Options, update_all};

use crate::ixp::Unit;
use crate::sink::header::{Fitness, examine};
use crate::sink::{
    Consolidation, DATA_SOURCES, File, Lead, Outcome, Span, Update, file, last_update_secs,
};

/// The file is locked by a reader or by another writer.
pub(crate) fn is_locked(reason: &str) -> bool {
    reason.contains("could not lock RRD")
}

/// Writes one update; the error is the reason of a refusal.
pub(crate) fn write_one(
    root: &Path,
    update: &Update,
    span: &Span,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let path = update.file.path(root);
    let mut exists = update.known;
    if !exists {
        exists = !make(&path, span, outcome)?;
    }
    let mut lead = update.lead(span, exists);
    loop {
        let Err(error) = update_file(&path, update, span, lead) else {
            outcome.accepted(update);
            return Ok(());
        };
        let message = match error {
            RrdError::LibRrdError(message) => message,
            other => other.to_string(),
        };
        match last_update_secs(&message) {
            Some(last) if last >= span.to_secs => {
                outcome.not_after(update, span, last);
                return Ok(());
            }
            // The lead is there already, or the file is ahead of it.
            Some(_) if lead != Lead::None => lead = Lead::None,
            None if exists && !path.exists() => {
                if !update.is_wanted() {
                    outcome.gone(update);
                    return Ok(());
                }
                make(&path, span, outcome)?;
                exists = false;
                lead = update.lead(span, exists);
            }
            _ => return Err(message),
        }
    }
}

fn make(path: &Path, span: &Span, outcome: &mut Outcome) -> Result<bool, String> {
    let made = file::create(path, span.creation_secs()).map_err(|error| error.to_string())?;
    outcome.receipt.created += u64::from(made);
    if made {
        return Ok(true);
    }
    match examine(path) {
        // Somebody else made it since we looked.
        Fitness::Unfit(why) => Err(why),
        _ => Ok(false),
    }
}

fn update_file(path: &Path, update: &Update, span: &Span, lead: Lead) -> Result<(), RrdError> {
    let rate = |total: u64| match total % span.secs() {
        0 => Datum::Int(total / span.secs()),
        // Totals above 2^53 lose digits that the file could not hold either.
        _ => Datum::Float(total as f64 / span.secs() as f64),
    };
    let first = match lead {
        Lead::None => None,
        Lead::Unknown => Some(Datum::Unspecified),
        Lead::Zero => Some(Datum::Int(0)),
    };
    let first = first.map(|value| (BatchTime::Timestamp(time(span.from_secs)), [value; 2]));
    let last = (BatchTime::Timestamp(time(span.to_secs)), update.totals.map(rate));
    update_all(path, Options::default(), first.into_iter().chain([last]))
}

fn time(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

/// A row of a file.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row {
    /// Where the row's time ends, in seconds since 1970.
    pub end_secs: u64,
    /// `traffic_in` and `traffic_out`, in bytes or packets per second; NaN where unknown.
    pub values: [f64; 2],
}

/// Reads the rows that end after `from_secs` and up to `to_secs`, of the archive that condenses by
/// `consolidation` and comes nearest to `resolution_secs`. Later ones than the file has are NaN.
///
/// What an rrdcached still keeps to itself is not seen.
pub fn fetch(
    path: &Path,
    consolidation: Consolidation,
    from_secs: u64,
    to_secs: u64,
    resolution_secs: u64,
) -> Result<Vec<Row>, RrdError> {
    let data = rrd::ops::fetch::fetch(
        path,
        function(consolidation),
        time(from_secs),
        time(to_secs),
        Duration::from_secs(resolution_secs),
    )?;
    let end_secs = |end: SystemTime| end.duration_since(UNIX_EPOCH).map_or(0, |end| end.as_secs());
    data.rows()
        .iter()
        // librrd adds the row in which the end lies, even if it lies at that row's start.
        .filter(|row| end_secs(row.timestamp()) <= to_secs)
        .map(|row| match *row.as_slice() {
            [input, output] => {
                Ok(Row { end_secs: end_secs(row.timestamp()), values: [input, output] })
            }
            _ => Err(RrdError::InvalidArgument("the file has not two data sources".into())),
        })
        .collect()
}

fn function(consolidation: Consolidation) -> ConsolidationFn {
    match consolidation {
        Consolidation::Average => ConsolidationFn::Avg,
        Consolidation::Max => ConsolidationFn::Max,
    }
}

/// What a file has of the step that is not over, and that is no row yet: `traffic_in` and
/// `traffic_out` in bytes or packets.
pub fn open_step(path: &Path) -> Result<[f64; 2], RrdError> {
    let mut info = rrd::ops::info::info(path)?;
    let mut open = [0.0; 2];
    for (open, name) in open.iter_mut().zip(DATA_SOURCES) {
        // The scratch of a data source is the sum of value x seconds (rrdinfo(1), rrd_format.h).
        let value = info.remove(&format!("ds[{name}].value"));
        *open = value.and_then(InfoValue::into_value).ok_or_else(|| {
            RrdError::InvalidArgument(format!("the file has no data source {name}"))
        })?;
    }
    Ok(open)
}

/// Longest time that is drawn of five-minute means alone.
const SINGLE_SECS: u64 = 2 * 86_400;

/// Draws `file` of the tree below `root` from `from_secs` to `to_secs` as a PNG, as IXP Manager's
/// Grapher does (app/Utils/Grapher/Rrd.php): out as an area, in as a line, bytes as bits; over two
/// days and more with the peaks behind the means.
///
/// librrd's graphs share fonts and settings in the process: draw in one thread at a time.
pub fn graph_png(
    root: &Path,
    file: File,
    title: &str,
    from_secs: u64,
    to_secs: u64,
) -> Result<Vec<u8>, RrdError> {
    const fn color(red: u8, green: u8, blue: u8) -> Color {
        Color { red, green, blue, alpha: None }
    }
    const OUT: Color = color(0x00, 0xcf, 0x00);
    const OUT_PEAK: Color = color(0x00, 0x66, 0x00);
    const IN: Color = color(0x00, 0x2a, 0x97);
    const IN_PEAK: Color = color(0xff, 0x00, 0xff);
    let (factor, label) = match file.family().1 {
        Unit::Bytes => (8, "bits / second"),
        Unit::Packets => (1, "pkts / second"),
    };
    let separate_peaks = to_secs.saturating_sub(from_secs) > SINGLE_SECS;
    let path = file.path(root);
    let mut elements: Vec<GraphElement> = Vec::new();
    for (name, source) in ["in", "out"].into_iter().zip(DATA_SOURCES) {
        for consolidation in [Consolidation::Average, Consolidation::Max] {
            let kind = if consolidation == Consolidation::Max { "peak" } else { "mean" };
            elements.push(
                Def {
                    var_name: VarName::new(format!("{name}_{kind}_raw"))?,
                    rrd: path.clone(),
                    ds_name: source.into(),
                    consolidation_fn: function(consolidation),
                    step: None,
                    start: None,
                    end: None,
                    reduce: None,
                }
                .into(),
            );
            let rpn = format!("{name}_{kind}_raw,{factor},*");
            elements.push(CDef { var_name: VarName::new(format!("{name}_{kind}"))?, rpn }.into());
        }
        for (figure, rpn) in
            [("max", "peak,MAXIMUM"), ("average", "mean,AVERAGE"), ("last", "mean,LAST")]
        {
            let var_name = VarName::new(format!("{name}_{figure}"))?;
            elements.push(VDef { var_name, rpn: format!("{name}_{rpn}") }.into());
        }
    }
    for (name, heading, peak, mean) in [("out", "Out", OUT_PEAK, OUT), ("in", "In ", IN_PEAK, IN)] {
        let variable = |kind: &str| VarName::new(format!("{name}_{kind}"));
        let curve = |kind: &str, color: Color, width: f64, legend: &str| {
            let (value, legend) = (variable(kind)?, Some(Legend::from(legend)));
            let (stack, skip_scale) = (false, false);
            Ok::<GraphElement, RrdError>(if name == "out" {
                let color = Some(ColorWithLegend { color: AreaColor::Color(color), legend });
                Area { value, color, stack, skip_scale }.into()
            } else {
                let color = Some(ColorWithLegend { color, legend });
                Line { width, value, color, stack, skip_scale, dashes: None }.into()
            })
        };
        let figure = |kind: &str, format: &str| {
            let var_name = variable(kind)?;
            Ok::<GraphElement, RrdError>(GPrint { var_name, format: format.into() }.into())
        };
        elements.push(Comment { text: heading.into() }.into());
        if separate_peaks {
            elements.push(curve("peak", peak, 1.0, "Peak")?);
            elements.push(figure("max", "%6.2lf%s\\t")?);
            elements.push(curve("mean", mean, 2.0, "Avg")?);
        } else {
            elements.push(curve("mean", mean, 2.0, "Max")?);
            elements.push(figure("max", "%6.2lf%s\\t")?);
            elements.push(Comment { text: "Avg".into() }.into());
        }
        elements.push(figure("average", "%6.2lf%s")?);
        elements.push(figure("last", "\\tCur\\: %6.2lf%s\\l")?);
    }
    let fonts = [
        (FontTag::Title, 10, "Times"),
        (FontTag::Legend, 8, "Courier"),
        (FontTag::Axis, 6, "Courier"),
        (FontTag::Unit, 6, "Courier"),
    ];
    let fonts = fonts.map(|(tag, size, font)| (tag, FontParams { size, font: Some(font.into()) }));
    let props = GraphProps {
        time_range: TimeRange {
            start: Some(time(from_secs)),
            end: Some(time(to_secs)),
            step_seconds: None,
        },
        labels: Labels { title: Some(title.into()), vertical_label: Some(label.into()) },
        size: Size { width: Some(600), height: Some(150), ..Size::default() },
        limits: Limits { lower_limit: Some(0.0), ..Limits::default() },
        misc: Misc { slope_mode: true, fonts: fonts.into(), ..Misc::default() },
        ..GraphProps::default()
    };
    graph::graph(ImageFormat::Png, &props, &elements).map(|(png, _)| png)
}
