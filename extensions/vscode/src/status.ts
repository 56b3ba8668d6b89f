import * as vscode from 'vscode';
import type { Sessions } from './sessions';
import type { Settings } from './settings';

type State = 'off' | 'on' | 'starting' | 'connected' | 'stopped' | 'trouble';

const icons: Record<State, string> = {
	off: '$(debug-disconnect)', on: '$(target)', starting: '$(loading~spin)', connected: '$(broadcast)', stopped: '$(debug-pause)', trouble: '$(warning)',
};

/** The item in the status bar: off it turns mirrord on, else it opens the menu. */
export class StatusItem {
	private drawn = '';
	private readonly item = vscode.window.createStatusBarItem('mirrord.status', vscode.StatusBarAlignment.Left, 100);

	constructor(private readonly settings: Settings, private readonly sessions: Sessions) {
		this.item.name = 'mirrord';
		this.draw();
		this.item.show();
	}

	draw(): void {
		const { state, text, what } = this.describe();
		const drawn = JSON.stringify([state, text, what]);
		if (drawn === this.drawn) return; // each change is the window's work
		this.drawn = drawn;
		this.item.text = `${icons[state]} mirrord: ${text}`;
		this.item.command = state === 'off' ? 'mirrord.toggle' : 'mirrord.menu';
		this.item.backgroundColor = state === 'stopped' || state === 'trouble' ? new vscode.ThemeColor('statusBarItem.warningBackground') : undefined;
		this.item.accessibilityInformation = { label: `mirrord: ${text}. ${what}`, role: 'button' };
		const tip = new vscode.MarkdownString(undefined, true);
		tip.isTrusted = { enabledCommands: ['mirrord.toggle', 'mirrord.menu', 'mirrord.chooseTarget', 'mirrord.showLog'] };
		tip.appendText(`mirrord: ${what}`);
		tip.appendMarkdown(`\n\n[${state === 'off' ? 'Turn on' : 'Turn off'}](command:mirrord.toggle) · [Menu](command:mirrord.menu) · [Choose target](command:mirrord.chooseTarget) · [Log](command:mirrord.showLog)`);
		this.item.tooltip = tip;
	}

	dispose(): void { this.item.dispose(); }

	private describe(): { state: State; text: string; what: string } {
		const { sessions, settings } = this;
		const own = sessions.own;
		const named = own.length === 1 ? short(own[0]!.info.target) : `${own.length} sessions`;
		const at = own.find((r) => r.own!.paused.size > 0);
		if (sessions.starting > 0) return { state: 'starting', text: 'starting…', what: 'a session is starting' };
		if (sessions.trouble) return { state: 'trouble', text: own.length > 0 ? `${named}: trouble` : 'trouble', what: sessions.trouble };
		if (at) return { state: 'stopped', text: `stopped in ${short(at.info.target)}`, what: `the program stands at a breakpoint in the context of ${at.info.target}` };
		if (own.length > 0) return { state: 'connected', text: named, what: own.map((r) => `connected to ${r.info.target}`).join('; ') };
		if (!settings.on) return { state: 'off', text: 'off', what: 'off: programs run as without it. Click to turn it on' };
		const target = settings.chosen?.target;
		return { state: 'on', text: target ? `on (${target})` : 'on', what: target ? `the next launch runs in the context of ${target}` : 'the next launch asks for its target' };
	}
}

/** "pod/web-1/container/web in shop" as "pod/web-1". */
export function short(target: string): string { return target.replace(/\/container\/\S+/, '').replace(/ in \S+$/, ''); }
