"""Definitions of the numbers in a report, shown at the end of the page."""

DEFINITIONS = (
    "Dice: per slice 2 |A and B| / (|A| + |B|) at a threshold of 0.5. It is undefined if both masks are empty, and 0 if one "
    "mask is. A patient's Dice is the mean over its slices, and a run's Dice is the mean over its patients, after the last "
    "epoch.",
    "Dice of a configuration: for each patient the mean over the runs that scored it, then the mean over patients. On a "
    "single split, its t interval has the variance between patients and, because a run moves all its patients together, the"
    " variance between runs. In cross-validation the fold is the unit, because its patients share a training set. An "
    "interval is cut at 0 and 1, between which every Dice lies.",
    "A difference is paired over the patients that both configurations have scored. Its standard error crosses patients and"
    " runs (or has folds as its unit). For verdicts, no variance is taken to be below the median of all configurations, "
    "less what chance explains. The formulas, error rates and power are in docs/statistics.md.",
    "May be the best: Hsu's multiple comparisons with the best (1981), with Dunnett's one-sided 5 % points (1955). Clearly "
    "worse: the studentized range (Tukey 1953). A plan with several looks divides the 5 % among them.",
    "Score of winners chosen on other patients: 1,000 bootstrap draws of patients and runs (or folds); in each, the best "
    "configuration of the draw is scored on what was not drawn (seed 0).",
    "Gap, roughness, epochs to 90 % and curves are computed from history.csv, where Dice is the mean over slices.",
    "Roughness: mean |second difference| of a curve divided by its range. Epochs to 90 %: the first epoch that reaches 90 % of "
    "the run's own best validation Dice.",
    "Penalty / loss: (train_loss - train_data_loss) / train_data_loss in the first epoch. Norm of the weights: the L2 norm of "
    "all kernels after the last epoch.",
    "In mm and ml: a case is one volume of a patient (ED, ES, or another frame, visit or sequence). It is scored in 3-D over "
    "its slices, on the network's grid, after the last epoch. A patient's value is the mean over its cases, then over the runs "
    "that scored it; a configuration's value is the mean over its patients. Counts are of the cases of all runs. This Dice is "
    "computed on whole cases, so large slices weigh more; in the Dice that ranks configurations all slices weigh the same.",
    "HD, HD95: maximum, or 95th percentile, of the distances between the boundaries; the larger value of both directions. "
    "ASSD: mean of all these distances. Surface Dice: share of both boundaries that lies within the tolerance of the other "
    "boundary. Volume: pixels times pixel area times slice distance. Stroke volume: EDV - ESV. Ejection fraction (EF): stroke "
    "volume / EDV, 0 if nothing is predicted at ED.",
    "Agreement: error = predicted - expert's value, one per patient: the mean over the runs that scored it, since these are "
    "not independent. Bias: mean error over patients. Limits: bias ± 1.96 sd over patients (Bland and Altman 1986), with exact "
    "95 % intervals for normal errors (Carkeet 2015). The errors of a single run vary by the sd of runs in addition.",
    "The best epoch is selected on the same validation data, so its Dice is optimistic. Figures mark it; no verdict uses it.",
)
